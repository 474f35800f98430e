"""Known sources of points, brought to what they are called today: points of this source that came under another path follow it.

A folder that was reached by another path is the same folder (`source_folder`). One that moved, or was copied while the old place
went, is recognised by its files: nothing is at their old paths, and what is listed under the same ids has the same bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from backbone.listing import ImageList
from service.errors import InvalidSource
from service.ingestion.kept_path import kept
from service.ingestion.source_folder import SourceFolder, is_missing
from service.points import Source, Stored, hash_image

# Files that are compared of a folder that may have moved: so many with the same name and bytes are no chance, and even large ones
# are read in a second.
SAMPLE = 16


@dataclass(frozen=True)
class Relisted:
    """A point of this source whose file the list calls by another path."""

    id: str
    relative: str
    stored: Stored
    source: Source  # as it is stored


def renamed_sources(
    listing: ImageList, known: Mapping[str, Stored], folder: SourceFolder, prefix: str
) -> dict[str, Source]:
    """Return the sources, by their names of today, of the points of this source that are stored with others."""
    renamed = []
    elsewhere: dict[str, list[Relisted]] = defaultdict(list)
    for point in _with_other_paths(known, folder, prefix):
        if folder.relative_of(point.source.path) == point.relative:
            renamed.append(point)
        elif (root := point.source.path.removesuffix(f"/{point.relative}")) != point.source.path:
            elsewhere[root].append(point)
    listed = {image.id: image.path for image in listing.images} if elsewhere else {}
    for root, points in elsewhere.items():
        if not _is_empty(root) and _moved(points, listed):
            renamed += [point for point in points if is_missing(point.source.path)]
    named = {point.id: replace(point.source, path=folder.path_of(point.relative)) for point in renamed}
    return {id_: source for id_, source in named.items() if _can_be_kept(source)}


def _with_other_paths(known: Mapping[str, Stored], folder: SourceFolder, prefix: str) -> Iterator[Relisted]:
    for id_, stored in known.items():
        relative = id_.removeprefix(prefix)
        if stored.source is None or not id_.startswith(prefix) or stored.source.path == folder.path_of(relative):
            continue
        yield Relisted(id_, relative, stored, stored.source)


def _is_empty(root: str) -> bool:
    """Say whether a folder is there and empty, as a mount point is without its disk: then its files are away, and not gone."""
    try:
        return not any(Path(root).iterdir())
    except OSError:
        return False


def _moved(points: list[Relisted], listed: Mapping[str, Path]) -> bool:
    """Say whether the files of a folder are now those of the list: more than half of them, for some may have changed since."""
    both = [point for point in points if point.relative in listed]
    sample = both[:: max(1, len(both) // SAMPLE)]
    moved = sum(is_missing(point.source.path) and _has_bytes_of(listed[point.relative], point) for point in sample)
    return 2 * moved > len(sample)


def _has_bytes_of(path: Path, point: Relisted) -> bool:
    try:
        if path.stat().st_size != point.source.size:
            return False
        return hash_image(path.read_bytes()) == point.stored.content_hash
    except OSError:
        return False


def _can_be_kept(source: Source) -> bool:
    try:
        kept(source)
    except InvalidSource:
        return False  # its file is refused for the same reason, and says so
    return True
