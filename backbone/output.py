"""The output of a command: the file, pipe or device that a person names for its result, looked at before the work, written at its end.

A regular file is replaced whole, where a symbolic link leads, and the link stays; but for a picture or a database, which no result
replaces: a slip names them easily, and the picture may be one that the result is about. A pipe, a device or a descriptor of this
process (`/dev/stdout`, `/dev/fd/3`, a shell's `>(...)`) is no file to be replaced: it is opened at the start and written through.
Nothing is ever read back.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from backbone.durable import write_file
from backbone.errors import PathMissing, StorageFailed
from backbone.formats import image_format

_LINKS = 40  # followed at most, as many as Linux does
_LOOK_MS = 100  # between two looks at whether to give up a reader that takes nothing
_LAST_MS = 2000  # that a reader gets when its writer has been told to stop
_BEGINNING = 512  # bytes: the signature of a picture, with the brands of one that has several
_DATABASE = b"SQLite format 3\x00"
_AT_ONCE = select.PIPE_BUF  # bytes that a pipe which says that it has room takes without waiting


class Output:
    """An output that is written once; a context manager.

    Raises, when it is made, before any work:
        PathMissing: the directory of the file does not exist.
        StorageFailed: it cannot be written, or is a directory, a disk, a socket, a picture or a database. A named pipe without a
            reader is waited for.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = open_stream(path)
        if self._descriptor is None:
            _check_folder(path)

    def write(self, data: bytes) -> None:
        """Write everything that there is to say. Raises StorageFailed."""
        if self._descriptor is None:
            self._replace(data)
            return
        try:
            write_through(self._descriptor, data)
        except OSError as error:
            raise _failed(self._path, error.strerror or str(error)) from error

    def _replace(self, data: bytes) -> None:
        try:
            write_file(self._path, data)
        except StorageFailed as error:
            busy = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EBUSY
            if not busy:
                raise
            self._path.write_bytes(data)  # mounted by itself, as containers do: it can be written, and not be replaced

    def close(self) -> None:
        """Let go; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def held_open(path: Path) -> Iterator[None]:
    """Prove, before the work, that a file which is written line by line can be; hold a pipe open, so that its reader waits for lines.

    Raises as `Output` does.
    """
    descriptor = open_stream(path)
    try:
        if descriptor is None and not path.exists():
            _check_folder(path)
        elif descriptor is None and not os.access(path, os.W_OK):
            raise _failed(path, os.strerror(errno.EACCES))
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def open_stream(path: Path, told_to_stop: Callable[[], bool] = lambda: False) -> int | None:
    """Return a descriptor of a pipe, a device, or what `/dev/stdout` and its like stand for; None for a regular file, or none yet.

    Waits for the reader of a named pipe, until it is told to stop. Raises StorageFailed where no result can be written.
    """
    try:
        own = _own_descriptor(path)
        if own is not None:
            return _duplicate(own)  # and not opened anew, which would write over what else is said there
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            _check_replaceable(path)
            return None
        for is_kind, name in ((stat.S_ISDIR, "a directory"), (stat.S_ISBLK, "a disk"), (stat.S_ISSOCK, "a socket")):
            if is_kind(mode):
                raise _failed(path, f"it is {name}")
        return _open_when_read(path, told_to_stop)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failed(path, error.strerror or str(error)) from error


def write_through(descriptor: int, data: bytes, told_to_stop: Callable[[], bool] = lambda: False) -> None:
    """Write all of `data`, however slow its reader is, but for one that takes nothing more when we are to stop. Raises OSError."""
    rest, poll = memoryview(data), select.poll()
    poll.register(descriptor, select.POLLOUT)
    while rest:
        stopping = told_to_stop()
        if poll.poll(_LAST_MS if stopping else _LOOK_MS):
            rest = rest[os.write(descriptor, rest[:_AT_ONCE]) :]
        elif stopping:
            raise TimeoutError(errno.ETIMEDOUT, "its reader takes nothing")


def _open_when_read(path: Path, told_to_stop: Callable[[], bool]) -> int:
    """Open a device or a pipe, the latter as soon as it has a reader; never in a call of the system that no signal ends."""
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO or not path.is_fifo():
                raise
            if told_to_stop():
                raise TimeoutError(errno.ETIMEDOUT, "nobody reads it") from error
            time.sleep(_LOOK_MS / 1000)
        else:
            os.set_blocking(descriptor, True)
            return descriptor


def _check_folder(path: Path) -> None:
    """Raise where no file can be made beside the one that `path` leads to."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise _failed(path, os.strerror(errno.ELOOP))
    folder = target.parent
    if not folder.is_dir():
        raise PathMissing(f"{folder} does not exist; name a file in a directory that does.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _failed(path, f"{folder} cannot be written")


def _check_replaceable(path: Path) -> None:
    """Raise StorageFailed for what is not an earlier result; a file that may be written and not be read is taken for one."""
    try:
        with path.open("rb") as file:
            beginning = file.read(_BEGINNING)
    except PermissionError:
        return
    if (name := image_format(beginning)) is not None:
        raise _failed(path, f"it is a picture ({name})")
    if beginning.startswith(_DATABASE):
        raise _failed(path, "it is a database")


def _own_descriptor(path: Path) -> int | None:
    """Return the number of the descriptor of this process that a path stands for; None where it is any other path."""
    folders = (f"/proc/{os.getpid()}/fd", "/dev/fd")
    for _ in range(_LINKS):
        if path.name.isdecimal() and os.path.realpath(path.parent) in folders:
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def _duplicate(descriptor: int) -> int:
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "it is open for reading")
    return os.dup(descriptor)


def _failed(path: Path, reason: str) -> StorageFailed:
    return StorageFailed(
        f"cannot write {path}: {reason}; name another file, or check the disk's space and the permissions."
    )
