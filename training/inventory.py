"""The inventory of a run's images, kept with it: a resumed run must find the same, or its order and its losses would be others.

RUN/images.tsv.gz holds a line `size <tab> time <tab> id` for each image, in order: bytes, nanoseconds of the last change, and the path
below the folder as a JSON string (file names may hold line breaks).
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from backbone.durable import read_file, write_file
from backbone.errors import DataInvalid
from backbone.listing import ListedImage

NAME = "images.tsv.gz"
SHOWN = 3  # names of a list that a message gives; the rest is counted


class File(NamedTuple):
    """The size and time that tell one state of a file from another without reading it; a file that is gone is (-1, -1)."""

    size: int
    changed_ns: int


@dataclass(frozen=True)
class Inventory:
    """The files of a set of images by id, in the order of the set."""

    files: dict[str, File]

    @classmethod
    def of(cls, images: Sequence[ListedImage]) -> Self:
        """Look at each file."""
        return cls({image.id: _look_at(image.path) for image in images})

    @classmethod
    def read(cls, run: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            PathMissing, StorageFailed: the file cannot be read.
            DataInvalid: it is damaged.
        """
        path = run / NAME
        try:
            with gzip.open(io.BytesIO(read_file(path)), "rt", encoding="utf-8", newline="\n") as lines:
                rows = [line.rstrip("\n").split("\t", 2) for line in lines]
            return cls({json.loads(name): File(int(size), int(changed)) for size, changed, name in rows})
        except (EOFError, OSError, ValueError) as error:
            raise DataInvalid(f"{path} is damaged; start a new run, or bring the file back from a copy.") from error

    def write(self, run: Path) -> None:
        """Write RUN/images.tsv.gz, whole or not at all."""
        lines = (f"{file.size}\t{file.changed_ns}\t{json.dumps(name)}\n" for name, file in self.files.items())
        write_file(run / NAME, gzip.compress("".join(lines).encode(), compresslevel=1, mtime=0))

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over ids and sizes in order; times are left out, so that a copy of the set has the same."""
        digest = hashlib.sha256()
        for name, file in self.files.items():
            digest.update(f"{file.size}\t{json.dumps(name)}\n".encode())
        return digest.hexdigest()

    def differences(self, now: Inventory) -> list[str]:
        """Return a line for each way in which the images are others `now`; none where all are the same."""
        then = self.files
        kinds = {
            "gone": [name for name in then if name not in now.files],
            "new": [name for name in now.files if name not in then],
            "changed": [name for name in then if name in now.files and now.files[name] != then[name]],
        }
        return [_line(kind, names) for kind, names in kinds.items() if names]


def _look_at(path: Path) -> File:
    try:
        status = path.stat()
    except OSError:  # vanished or unreadable: decoding will say so
        return File(-1, -1)
    return File(status.st_size, status.st_mtime_ns)


def _line(kind: str, names: list[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"{len(names):,} {kind}: {', '.join(names[:SHOWN])}{more}"
