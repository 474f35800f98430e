"""Durable files and directories, whole or absent whenever the power goes.

Each write goes to a temporary name beside its target (the same file system, so that the rename is atomic), is flushed to the disk,
renamed, and the parent directory is flushed too: without the last step the name may be lost although the bytes are safe.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import time
import uuid
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from backbone.errors import DirectoryLocked, OutputNotEmpty, PathMissing, StorageFailed

LOCK_NAME = ".dinodex.lock"
# Modes before the umask: of what anybody may see whom the umask lets, and of what is its owner's alone.
PLAIN_FOLDER, PRIVATE_FOLDER, PRIVATE_FILE = 0o777, 0o700, 0o600
# Many times what a child needs from its start to its program, and nobody minds to hear of a lock so late.
LOCK_PATIENCE_S = 0.3
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")  # what `_beside` makes


def write_file(path: Path, *parts: bytes | memoryview, verify: bool = False, mode: int = 0o666) -> None:
    """Replace `path` by `parts`, one after the other, atomically and durably.

    Args:
        path: the file; where it is a symbolic link, what that leads to is replaced, and the link stays.
        parts: its bytes; large ones are not copied.
        verify: read the bytes back before the file gets its name.
        mode: who may read and write it, before the umask.

    Raises:
        StorageFailed: the disk refused, or gave other bytes back; what `path` held before is still there. Only where the very last
            step failed, the flush of the name, `path` holds the new bytes, and after a power cut either.
    """
    temporary: Path | None = None
    try:
        target = _target(path)
        temporary = _beside(target)
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        if verify:
            _read_back(temporary, parts)
        temporary.replace(target)
        sync_directory(target.parent)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise _storage_failed("write", path, error) from error


def remove_leftovers(folder: Path) -> None:
    """Remove what writes into `folder` left behind when their process was killed; nobody else may be writing there.

    Raises:
        StorageFailed: the disk refused.
    """
    try:
        for path in folder.iterdir() if folder.is_dir() else ():
            if not _TEMPORARY.fullmatch(path.name):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise _storage_failed("write", folder, error) from error


@contextlib.contextmanager
def new_directory(path: Path, *, replace: bool = False, mode: int = PLAIN_FOLDER) -> Iterator[Path]:
    """Yield an empty directory that becomes `path` when the block ends well, and vanishes when it does not.

    Args:
        path: where the directory shall be; nothing or an empty directory may be there, or a symbolic link to them, which stays.
        replace: let a directory that is there be replaced.
        mode: who may enter it and what is made above it, before the umask.

    Raises:
        OutputNotEmpty: something is there and `replace` is false.
        StorageFailed: the disk refused.
    """
    refuse_non_empty(path, replace=replace)
    target = Path(os.path.realpath(path))
    temporary = _beside(target)
    try:
        make_directory(target.parent, mode)
        temporary.mkdir(mode)
        yield temporary
        _sync_tree(temporary)
        _swap_in(temporary, target)
        sync_directory(target.parent)
    except OSError as error:
        raise _storage_failed("write", path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_non_empty(path: Path, *, replace: bool = False) -> None:
    """Raise OutputNotEmpty if `path` is a file, or a directory that holds something besides a lock.

    Raises also StorageFailed where no directory can be made or written there: before the work, and not after it.
    """
    try:
        if path.exists() and not path.is_dir() and not path.is_file():
            raise OutputNotEmpty(f"{path} is a device or a pipe; name another output directory.")
        used = path.is_file() or (path.is_dir() and any(entry.name != LOCK_NAME for entry in path.iterdir()))
        if used and not replace:
            raise OutputNotEmpty(f"{path} is not empty; name another output directory, or empty this one.")
        _check_writable(_target(path))
    except OSError as error:
        raise _storage_failed("write", path, error) from error


def read_file(path: Path) -> bytes:
    """Return the bytes of `path`.

    Raises:
        PathMissing: there is no such file.
        StorageFailed: it cannot be read.
    """
    with reading(path):
        return path.read_bytes()


def hash_file(path: Path) -> str:
    """Return the sha256 of the bytes of `path`, in hexadecimal; they are never in memory together.

    Raises:
        PathMissing, StorageFailed: as `read_file`.
    """
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_directory(path: Path, mode: int = PLAIN_FOLDER) -> None:
    """Make a directory and what is missing above it; each name is flushed, so that none is lost with what it will hold.

    `mode` says who may enter what is made, before the umask. Raises OSError.
    """
    if path.is_dir():
        return
    path = _target(path)
    make_directory(path.parent, mode)
    path.mkdir(mode, exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Flush the names in directory `path` to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class DirectoryLock:
    """One process's hold on a directory; the kernel lets go of it when the process ends, however it ends.

    A forked child does not share it: a loader that outlives a killed trainer for seconds would keep its successor out.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        _held.add(self)

    def release(self) -> None:
        """Let go; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


_held: weakref.WeakSet[DirectoryLock] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """Close a forked child's copies; the parent's hold is not touched by it."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_let_go_in_child)


def lock_directory(path: Path, mode: int = PLAIN_FOLDER) -> DirectoryLock:
    """Take the directory `path` for this process, creating it (with `mode`, before the umask) where it is missing.

    Raises:
        DirectoryLocked: another process (or another open lock of this one) holds it.
        StorageFailed: the directory cannot be created or written.
    """
    try:
        make_directory(path, mode)
        descriptor = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        raise _storage_failed("write", path, error) from error
    try:
        _lock(descriptor)
    except OSError as error:
        os.close(descriptor)
        raise DirectoryLocked(
            f"{path} is in use by another dinodex process; stop that process, or name another directory."
        ) from error
    return DirectoryLock(descriptor)


def _lock(descriptor: int) -> None:
    """Lock a file. A child that its holder was about to start when it was killed shares the lock until it is a program of its own."""
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.01)


def _target(path: Path) -> Path:
    """Return where a symbolic link leads, which need not exist; any other path as it is. Raise OSError for what cannot be replaced."""
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if target.exists() and not target.is_file() and not target.is_dir():
        raise OSError(errno.EINVAL, "it is a device or a pipe")
    return target


def _check_writable(path: Path) -> None:
    """Raise OSError where `path`, or the nearest directory above it that exists, cannot be written."""
    nearest = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    if not nearest.is_dir():
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, f"{nearest} cannot be written")


def _beside(path: Path) -> Path:
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}.tmp"


def _read_back(path: Path, parts: tuple[bytes | memoryview, ...]) -> None:
    """Raise OSError where the file does not hold these bytes."""
    written = hashlib.sha256()
    for part in parts:
        written.update(part)
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").digest() != written.digest():
            raise OSError(errno.EIO, "it gave other bytes back than were written")


def _sync_tree(root: Path) -> None:
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            descriptor = os.open(Path(folder) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(Path(folder))


def _swap_in(temporary: Path, path: Path) -> None:
    """Rename over nothing or an empty directory; a full one is first moved aside, so that `path` never holds half of each."""
    if path.is_dir() and any(path.iterdir()):
        aside = _beside(path)
        path.rename(aside)
        temporary.rename(path)
        shutil.rmtree(aside)
    else:
        temporary.rename(path)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system refuses while `path` is read into PathMissing and StorageFailed."""
    try:
        yield
    except FileNotFoundError as error:
        raise PathMissing(f"{path} does not exist; check the path.") from error
    except OSError as error:
        raise _storage_failed("read", path, error) from error


def _storage_failed(verb: str, path: Path, error: OSError) -> StorageFailed:
    reason = error.strerror or str(error)
    return StorageFailed(f"cannot {verb} {path}: {reason}; check the disk's space and the permissions.")
