"""Image files, read only where they are files of the size of an image: a pipe would be waited for, and gigabytes held in memory."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from backbone.decode import DecodeLimits
from backbone.durable import reading
from backbone.errors import TooManyBytes


def read_image_file(path: Path, max_bytes: int = DecodeLimits.max_bytes) -> bytes:
    """Return the bytes of an image file.

    Raises:
        PathMissing: there is no such file.
        StorageFailed: it cannot be read, or is no file but a pipe or a device.
        TooManyBytes: it has more than `max_bytes`; it was not read.
    """
    with reading(path):
        check_image_file(path.stat(), max_bytes)
        return path.read_bytes()


def check_image_file(status: os.stat_result, max_bytes: int) -> None:
    """Raise OSError for what is no regular file, and TooManyBytes for one that is too large."""
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    if status.st_size > max_bytes:
        raise TooManyBytes(f"the file has {status.st_size:,} bytes and the limit is {max_bytes:,}; save a smaller one.")
