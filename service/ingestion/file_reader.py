"""A reader of the index job's files: what has to be put for each, judged first by size and time, then by content.

A file whose size, time and label are those of its point is taken for unchanged and not opened: what is written into it with both of
them kept is not noticed. The point of another file, or one that came over REST, is not replaced unless that was asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backbone.image_file import check_image_file
from backbone.listing import ListedImage
from backbone.listing.text_file import is_text
from service.errors import InvalidId, OtherSource
from service.ingestion.incoming import Incoming
from service.ingestion.kept_path import kept
from service.ingestion.source_folder import SourceFolder, is_missing
from service.points import Source, Stored, check_id, check_label, hash_image, kept_time


@dataclass(frozen=True)
class FileReader:
    """Reads the files of one source for a collection whose points are known."""

    folder: SourceFolder
    known: Mapping[str, Stored]
    id_prefix: str
    replace_sources: bool
    max_image_bytes: int

    def id_of(self, image: ListedImage) -> str:
        """Return the id of a file's point."""
        return self.id_prefix + image.id

    def read(self, image: ListedImage) -> Incoming | None:
        """Return what has to be put for a file, or None where nothing changed.

        Raises:
            OSError, ImageRefused, Invalid: the file cannot be taken.
            OtherSource: its id belongs to the point of another source, with other content.
        """
        # Before the bytes are read: if the file is written meanwhile, its time differs on the next run, and it is read again.
        status = image.path.stat()
        id_ = self.id_of(image)
        there = self.known.get(id_)
        ours = there is None or self._is_ours(there, image, status)
        if there is not None and ours and there.label == image.label and _is_as_kept(there.source, status):
            return None
        mounted = image.path.parent.stat().st_dev != self.folder.device
        source = Source(self.folder.path_of(image.id), status.st_size, kept_time(status.st_mtime_ns), mounted)
        check_image_file(status, self.max_image_bytes)
        if not is_text(id_):
            raise InvalidId("its path is not UTF-8 text, as an id has to be; rename the file or its folder.")
        check_id(id_)
        check_label(image.label)
        kept(source)  # one that cannot be stored is refused alone
        data = image.path.read_bytes()
        item = Incoming(id_, hash_image(data), data, label=image.label, source=source)
        return item if there is None or ours or self.replace_sources else _beside(there, item)

    def _is_ours(self, there: Stored, image: ListedImage, status: os.stat_result) -> bool:
        if there.source is None:
            return False
        if there.source.path == self.folder.path_of(image.id):
            return True
        try:
            other = Path(there.source.path).stat()
        except OSError:
            return False
        return (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino)  # the same file by another path


def _is_as_kept(source: Source | None, now: os.stat_result) -> bool:
    return source is not None and (source.size, source.mtime_ns) == (now.st_size, kept_time(now.st_mtime_ns))


def _has_left(source: Source) -> bool:
    """Say whether nothing is where a file was indexed, or another file. What cannot be looked at has not left."""
    if is_missing(source.path):
        return True
    try:
        now = Path(source.path).stat()
    except OSError:
        return False
    return not _is_as_kept(source, now)


def _beside(there: Stored, item: Incoming) -> Incoming | None:
    """Return what has to be put for a file whose id has the point of another source: at most another label for the same picture."""
    if there.content_hash != item.content_hash:
        whose = "a point that came from no file" if there.source is None else f"the point of {there.source.path}"
        raise OtherSource(
            f"its id belongs to {whose}; give these files ids of their own with --id-prefix, or say --replace-sources."
        )
    if there.source is None or _has_left(there.source):
        return item  # this folder was indexed over REST before, or the picture moved here
    if there.label == item.label:
        return None
    # its source stays that of the point, so that this file's end is not the point's
    return Incoming(item.id, item.content_hash, item.image, label=item.label)
