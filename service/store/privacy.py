"""The privacy of a data directory: labels, vectors and pictures are for its owner, as the file of keys is.

What dinodex makes there only its owner may read, whatever the umask. What an older version or a copy by hand left readable for
everybody is closed when the library is opened; what a group may write, or read as the only ones, somebody meant, and it stays: the
index is then the group's, too. A directory that is there already keeps its mode: it may hold more than a library. What this process
could not write is named before anything begins.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

import structlog

from backbone.durable import LOCK_NAME, PRIVATE_FILE
from service.errors import StorageFailed

LOGS = ("-wal", "-shm", "-journal")  # SQLite's files beside a database, which it makes with the database's mode
_OWNER, _GROUP, _GROUP_WRITES, _OTHERS = 0o700, 0o070, 0o020, 0o007

log = structlog.get_logger("service")


def create_private(path: Path) -> None:
    """Make an empty file for its owner alone, where there is none: SQLite would make it by the umask, also where a link leads to."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(os.path.realpath(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE))


def check_directory(directory: Path) -> None:
    """Raise StorageFailed where a data directory is there, and this process may not write it."""
    _check_writable(directory, directory / LOCK_NAME)


def take_possession(database: Path, index: Path) -> None:
    """Close what everybody may read of a library whose directory is held: its database, its index.

    The folder of the index is open to the group that the database is open to, and what is built in it follows it.

    Raises StorageFailed for what this process may not write.
    """
    paths = [*_files(database), *_tree(index)]
    _check_writable(*paths)
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            _close_to_others(path)
    if database.exists() and not index.exists() and (group := database.stat().st_mode & _GROUP):
        index.mkdir(_OWNER)
        # Who may read it may enter it. The bit that hands the group on to what is made inside stays.
        index.chmod(stat.S_IMODE(index.stat().st_mode) | group | group >> 2 & 0o010)


def _files(database: Path) -> Iterator[Path]:
    yield database
    yield from (database.with_name(database.name + ending) for ending in LOGS)


def _tree(folder: Path) -> Iterator[Path]:
    """Yield a folder and what is in it. Some may vanish meanwhile: the builder of a process that was killed ends a moment later."""
    yield folder
    for home, folders, files in os.walk(folder):
        yield from (Path(home, name) for name in sorted((*folders, *files)))


def _check_writable(*paths: Path) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            _check_one(path)


def _check_one(path: Path) -> None:
    wanted = os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)
    if os.access(path, wanted, effective_ids=os.access in os.supports_effective_ids):
        return
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        raise StorageFailed(f"{path}: Read-only file system; mount it for writing, or name another directory.")
    owner = path.stat().st_uid
    if owner == os.geteuid():
        raise StorageFailed(
            f"{path} may not be read and written by its owner; give the permissions back with chmod u+rwX."
        )
    raise StorageFailed(
        f"{path} belongs to {_user(owner)}, and {_user(os.geteuid())}, who runs this, may not write it; "
        f"run it as {_user(owner)}, or give the directory to who runs it with chown -R."
    )


def _user(number: int) -> str:
    try:
        return f"the user {pwd.getpwuid(number).pw_name} ({number})"
    except KeyError:  # as in a container
        return f"the user {number}"


def _close_to_others(path: Path) -> None:
    mode = path.stat().st_mode & 0o777
    if not mode & _OTHERS:
        return
    try:
        path.chmod(mode & (_OWNER | _GROUP if mode & _GROUP_WRITES else _OWNER))
    except OSError:  # another owner's, who lets us write
        log.warning("readable_for_everybody", path=str(path), detail="only its owner can close it with chmod go=")
