"""Backups of the library: copies that are made while a service writes to it, compared with their checksums, and put back.

A copy is one SQLite file that stands alone, readable for its owner only. It holds one snapshot of the library: every write that was
acknowledged before the copying began, and no half of another one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backbone.durable import PRIVATE_FOLDER, lock_directory, sync_directory
from backbone.errors import DirectoryLocked, OutputNotEmpty, PathMissing
from service.errors import LibraryInvalid, StorageFailed, StorageFull
from service.store.database import DATABASE_NAME, INDEX_FOLDER, opening_error
from service.store.integrity import inspect
from service.store.migrations import APPLICATION_ID, migrate
from service.store.privacy import LOGS, create_private

STEP_PAGES = 4096  # copied at a time, 32 MB: between two steps Ctrl-C is heard


@dataclass(frozen=True)
class Copied:
    """A library that was copied and compared: points by collection, bytes of the file, and what they hash to."""

    points: dict[str, int]
    size_bytes: int
    sha256: str


def backup(data_dir: Path, out: Path, force: bool = False) -> Copied:
    """Copy the library in a directory to the file `out`; a service may hold the directory and write meanwhile.

    The copy gets its name when it is whole, compared and flushed; what `out` held before is kept until then.

    Raises:
        PathMissing: there is no library, or no directory for the file.
        OutputNotEmpty: `out` exists and `force` is false, or it lies among the library's own files.
        LibraryInvalid: the library is damaged, or not one that this version can read.
        StorageFailed, StorageFull: the disk refused.
    """
    source = data_dir / DATABASE_NAME
    if not source.is_file():
        raise PathMissing(f"{data_dir} holds no library; check the path.")
    file = Path(os.path.realpath(out))  # a symbolic link stays, and what it leads to is replaced
    if file.parent == Path(os.path.realpath(data_dir)):
        raise OutputNotEmpty(f"{out} lies among the library's own files; name a file in another directory.")
    if file.is_symlink() or (out.exists() and not out.is_file() and not out.is_dir()):
        raise OutputNotEmpty(f"{out} is a pipe, a device or a link to itself, which holds no library; name a file.")
    if out.is_dir() or (out.exists() and not force):
        raise OutputNotEmpty(f"{out} exists; name another file, or replace it with --force.")
    if not file.parent.is_dir():
        raise PathMissing(f"{file.parent} does not exist; make the directory first.")
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise StorageFailed(f"{file.parent} cannot be written; name a file in another directory.")
    with _file_errors(source, file), _new_file(file) as temporary:
        points = _copy(source, temporary)
        return Copied(points, temporary.stat().st_size, _sha256(temporary))


def restore(file: Path, data_dir: Path, replace: bool = False) -> Copied:
    """Make the library in a directory the one in `file`; return what that holds.

    It is compared before anything that is there is touched, and then takes the place of the old one in one step. What is derived
    from the old library goes, and the new one has an epoch of its own.

    Raises:
        PathMissing: there is no such file.
        OutputNotEmpty: the directory holds a library and `replace` is false.
        DirectoryLocked: a service holds the directory, or another program has its library open.
        LibraryInvalid: the file is not a library, or is damaged.
        StorageFailed, StorageFull: the disk refused.
    """
    if not file.is_file():
        raise PathMissing(f"{file} does not exist; check the path.")
    # it may be a symbolic link to another disk, and stays one
    target = Path(os.path.realpath(data_dir / DATABASE_NAME))
    with _file_errors(file, target), lock_directory(data_dir, PRIVATE_FOLDER):
        if target.exists() and not replace:
            raise OutputNotEmpty(
                f"{data_dir} holds a library; name another directory, or put it in its place with --replace."
            )
        with _new_file(target) as temporary:
            points = _copy(file, temporary, new_epoch=True)
            copied = Copied(points, file.stat().st_size, _sha256(file))
            _retire(target)
            shutil.rmtree(data_dir / INDEX_FOLDER, ignore_errors=True)
    return copied


def _copy(source: Path, target: Path, new_epoch: bool = False) -> dict[str, int]:
    """Copy one snapshot of a library, compare all of the copy; return its points by collection."""
    with contextlib.closing(_read_only(source)) as old, contextlib.closing(sqlite3.connect(target)) as new:
        new.isolation_level = None
        if old.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise LibraryInvalid(f"{source} is not a library of dinodex; name another file.")
        old.execute("BEGIN")  # holds the snapshot while writes go on
        expected = old.execute("SELECT count(*) FROM points").fetchone()
        old.backup(new, pages=STEP_PAGES)
        new.execute("PRAGMA journal_mode = DELETE")  # one file, that needs no log beside it
        migrate(new)
        if new_epoch:
            new.execute("UPDATE identity SET epoch = randomblob(16)")
        points = inspect(new)
        if new.execute("SELECT count(*) FROM points").fetchone() != expected:
            raise LibraryInvalid(f"the copy of {source} lacks points; try again, or restore a backup.")
    return points


def _read_only(path: Path) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, isolation_level=None)


def _retire(library: Path) -> None:
    """Leave an old library whole and without a log, so that no log of it is ever taken for the new one's."""
    if library.exists():
        with contextlib.closing(sqlite3.connect(library, timeout=0)) as old:
            try:
                old.execute("PRAGMA journal_mode = DELETE")  # folds the log in, and fails while anybody else reads
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                    raise DirectoryLocked(f"another program has {library} open; let it end, then restore.") from error
                raise
            except sqlite3.DatabaseError:
                pass  # too damaged to be read, which is why it is replaced
    for suffix in LOGS:
        library.with_name(library.name + suffix).unlink(missing_ok=True)
    sync_directory(library.parent)


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """Yield an empty private file beside `path` that becomes `path` when the block ends well, and vanishes when it does not."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp*"):
        leftover.unlink(missing_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        create_private(temporary)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        temporary.with_name(f"{temporary.name}-journal").unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _file_errors(source: Path, target: Path) -> Iterator[None]:
    """Raise what SQLite and the disk say as the service's errors."""
    try:
        yield
    except (sqlite3.Error, UnicodeError) as error:
        told = opening_error(source, error)
        if isinstance(told, StorageFull):  # nothing is written where the copy is made from
            told = opening_error(target, error)
        raise told from error
    except OSError as error:
        raise StorageFailed(f"the copy failed ({error}); check the disk's space and the permissions.") from error
