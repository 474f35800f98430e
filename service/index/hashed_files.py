"""Hashed files: written once, known by their size and sha256, and their owner's alone, as the vectors that they hold are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from backbone.durable import PRIVATE_FILE

FLUSH_BYTES = 64 * 2**20  # written between two flushes: a commit that waits behind one waits for tens of milliseconds


class HashedFile:
    """A new file, which remembers what is written to it and flushes often, so that no single flush takes long."""

    def __init__(self, path: Path) -> None:
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE), "wb")
        self._digest = hashlib.sha256()
        self._size = self._flushed = 0

    def write(self, part: bytes | memoryview) -> int:
        """Write a part; return its length."""
        self._digest.update(part)
        self._file.write(part)
        self._size += len(part)
        if self._size - self._flushed >= FLUSH_BYTES:
            self._file.flush()
            os.fdatasync(self._file.fileno())
            self._flushed = self._size
        return len(part)

    def manifest_entry(self) -> dict[str, Any]:
        """Return what a manifest says of the file."""
        return {"size": self._size, "sha256": self._digest.hexdigest()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def write_hashed(path: Path, parts: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write a file of these parts; return what a manifest says of it."""
    with HashedFile(path) as file:
        for part in parts:
            file.write(part)
    return file.manifest_entry()


def describe(path: Path) -> dict[str, Any]:
    """Return what a manifest would say of a file."""
    with path.open("rb") as file:
        return {"size": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
