"""Pruning of the index job: which points are deleted because their file was looked for and is not there.

Another format, a subfolder, a list or a filter are no look at what they leave out. A file is gone where the folder that held it can be
read without finding it, or is itself gone from one that can; where a disk may be missing nothing is pruned at all, nor where
suspiciously much would be.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from backbone.listing import ImageList
from service.errors import SourceUnreachable, TooManyGone
from service.ingestion.source_folder import SourceFolder
from service.points import Stored

# More than a tenth of what was looked for is rather a disk that is missing, a wrong folder or a folder that was renamed than a person
# who tidied up. One file is always pruned: of fewer than ten it is more than a tenth, and to embed it again costs nothing.
MOST_GONE = 0.1


def gone_points(
    listing: ImageList, known: Mapping[str, Stored], folder: SourceFolder, prefix: str, confirmed: bool
) -> Sequence[str]:
    """Return the ids of the points that came from this source, with this prefix, and whose file was looked for and is not there.

    Args:
        listing: what was looked at.
        known: the points that there were before the job.
        folder: the folder that the list's ids are relative to.
        prefix: points whose ids do not begin with it are left alone.
        confirmed: take much that is gone, folders that are empty, and disks that are not there for deleted.

    Raises:
        SourceUnreachable: a folder, a link's target or a disk cannot be looked at, so nothing is known of its files.
        TooManyGone: more than a tenth would be pruned, and it was not confirmed.
    """
    listed = {image.id for image in listing.images}
    ours = {
        id_: relative
        for id_, stored in known.items()
        if stored.source is not None and (relative := folder.relative_of(stored.source.path)) is not None
    }
    looked_for = [id_ for id_ in ours if id_.startswith(prefix) and (ours[id_] in listed or listing.covers(ours[id_]))]
    missing = [id_ for id_ in looked_for if ours[id_] not in listed]
    holders = {id_: holder for id_ in missing if (holder := _missing_from(folder, ours[id_])) is not None}
    gone = list(holders)
    if confirmed:
        return gone
    seen_again = {_parent(relative) for relative in ours.values() if relative in listed}
    for id_, holder in holders.items():
        if _parent(ours[id_]) not in seen_again:
            _check_disk_is_there(folder, holder, known[id_])
    for holder in sorted(set(holders.values())):
        _check_not_a_mount_point(folder, holder, ours.values())
    if len(gone) > max(1, MOST_GONE * len(looked_for)):
        raise TooManyGone(
            f"{len(gone)} of {len(looked_for)} points would be pruned, which is more than a tenth, so none was;"
            " if their files are meant to be gone, say --yes."
        )
    return gone


def _missing_from(folder: SourceFolder, relative: str) -> Path | None:
    """Return the folder that is there and should hold a file, or what led to it, and does not; None where the file is there.

    Raises:
        SourceUnreachable: it cannot be told.
    """
    file = folder.path / relative
    for path in [*reversed(file.parents[: len(Path(relative).parts) - 1]), file]:
        try:
            status = path.stat()
        except FileNotFoundError as error:
            if path.is_symlink():
                raise SourceUnreachable(_unreachable(path, "it links to what is not there")) from error
            return path.parent
        except OSError as error:
            raise SourceUnreachable(_unreachable(path, error.strerror or type(error).__name__)) from error
        if stat.S_ISDIR(status.st_mode) is (path == file):
            return path.parent  # a folder that became a file, or a file that became a folder
    return None


def _parent(relative: str) -> str:
    return relative.rpartition("/")[0]


def _check_disk_is_there(folder: SourceFolder, holder: Path, point: Stored) -> None:
    """Refuse where a file was on another disk than its source, and the folder that should hold it is on that of the source.

    Not asked of a folder of which files are found again: then its files were copied to where they are now.
    """
    if point.source is not None and point.source.mounted and holder.stat().st_dev == folder.device:
        raise SourceUnreachable(
            f"nothing was pruned: {point.source.path} was on a disk that is not in {holder} now;"
            " mount it, or say --yes if its files are meant to be gone."
        )


def _check_not_a_mount_point(folder: SourceFolder, holder: Path, relatives: Iterable[str]) -> None:
    """Refuse a folder below the source that is empty, as a mount point is without its disk.

    One that held a single file is believed, unless it is a link: then that file was deleted, as with any other folder.
    """
    if holder == folder.path:
        return
    try:
        empty = all(entry.name.startswith(".") for entry in holder.iterdir())
    except OSError as error:
        raise SourceUnreachable(_unreachable(holder, error.strerror or type(error).__name__)) from error
    if not empty:
        return
    below = f"{holder.relative_to(folder.path).as_posix()}/"
    points = sum(relative.startswith(below) for relative in relatives)
    if points > 1 or holder.resolve() != holder:
        raise SourceUnreachable(
            f"nothing was pruned: {holder} is empty, and {points} points came from there;"
            " mount its disk, or say --yes if the files are meant to be gone."
        )


def _unreachable(path: Path, why: str) -> str:
    return f"nothing was pruned: {path} cannot be looked at ({why}); mount its disk, mend its permissions or remove it."
