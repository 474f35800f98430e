"""The SQLite database: one thread writes, in groups; any number of readers each see one snapshot of it.

A write is a function that gets the writer's connection. Writes that wait at the same time share one transaction and one
fsync (group commit), each inside its own savepoint, so that one that is refused takes nothing of the others with it.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from backbone.durable import sync_directory
from service.errors import (
    LibraryInvalid,
    ServiceError,
    StorageFailed,
    StorageFull,
)
from service.store.connections import BUSY_TIMEOUT_S, DAMAGED, Readers, connect, is_disk_error
from service.store.migrations import check_schema, migrate
from service.store.privacy import create_private

DATABASE_NAME = "library.sqlite3"
INDEX_FOLDER = "index"  # what is derived: it may be deleted while the library is closed, and is built again

T = TypeVar("T")

MAX_GROUP = 64  # writes to a commit: beyond it the fsync is a small part of the cost, and waiting grows
# A checkpoint folds the WAL into the database when it has grown by so much: some 64 commits of 256 x 384-d points, to two fsyncs more.
# Earlier where less is free: folding may take as much again.
CHECKPOINT_BYTES = 32 * 2**20
MAKE_ROOM_S = (
    1.0  # waited for readers when the disk is full; with a backup's, the log gives its space back another time
)
PAGE_BYTES = 8192  # five 384-d vectors fill a page to 95 %; of SQLite's usual 4096 bytes two leave a quarter empty
WRITER_CACHE_KIB = 65536  # keeps the upper pages of the id index of a million points in memory

# Tables that are compared with their indexes when the library is opened: a damaged one would answer, and wrongly. The others are
# large, and a search by row that finds nothing in them is noticed.
INSPECTED = (
    "collections",
    "points",
    "field_names",
    "identity",
    "clock",
    "sealed",
    "jobs",
    "clusterings",
    "clusters",
    "tallies",
)

_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}  # the second: no room for the WAL's index in shared memory


@dataclass
class _Write:
    """One write on its way: its work, what to do once it is durable, and the future its caller waits on."""

    work: Callable[[sqlite3.Connection], Any]
    then: Callable[[Any], None]
    future: Future[Any] = field(default_factory=Future)
    result: Any = None
    refusal: Exception | None = None


class Database:
    """One SQLite file in WAL mode with synchronous=FULL.

    Raises LibraryInvalid where the file is no library, StorageFailed or StorageFull where the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self._readers = Readers(path)
        self._log = path.with_name(f"{path.name}-wal")
        self._checkpointed_bytes = 0  # the log's at the last checkpoint; it grows on while a reader needs what is in it
        self._failure: str | None = None  # why nothing can be written any more
        self._closing = False
        self._submit_lock = threading.Lock()  # no write is queued behind the one that closes
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        with contextlib.ExitStack() as undo:
            try:
                create_private(path)
                self._writer = connect(path)
                undo.callback(self._writer.close)
                _prepare(self._writer)
                self._tick = int(self._writer.execute("SELECT tick FROM clock").fetchone()[0])
                sync_directory(path.parent)
            except (sqlite3.Error, OSError, UnicodeError) as error:
                raise opening_error(path, error) from error
            undo.pop_all()
        self._applied = threading.Condition()  # guards _tick: the commit up to which derived state has been brought
        self._thread = threading.Thread(target=self._run, name="library-writer", daemon=True)
        self._thread.start()

    @property
    def writable(self) -> bool:
        """Whether writes are still accepted: false once closed or after the disk failed."""
        return self._failure is None and not self._closing

    def write(self, work: Callable[[sqlite3.Connection], T], then: Callable[[T], None] = lambda _: None) -> T:
        """Run `work` in the writer thread; return its result once it is durable and `then` has run.

        `then(result)` runs in the writer thread after the commit and before any aligned reader can see the commit: it
        is where derived state follows. Raises what `work` raises (nothing of it is stored then); StorageFull where the
        disk is full; StorageFailed where it fails, after which nothing is written any more until a restart.
        """
        result: T = self.write_later(work, then).result()
        return result

    def write_later(
        self, work: Callable[[sqlite3.Connection], T], then: Callable[[T], None] = lambda _: None
    ) -> Future[T]:
        """Queue a write as `write` does, without waiting for it."""
        write = _Write(work, then)
        with self._submit_lock:
            if self._closing:
                raise StorageFailed("the library is closed.")
            self._queue.put(write)
        return write.future

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection that reads one snapshot of the database, at least as new as every answered write."""
        with self._readers.connection() as connection:
            connection.execute("BEGIN")
            yield connection

    @contextlib.contextmanager
    def aligned(self, take: Callable[[], T]) -> Iterator[tuple[sqlite3.Connection, T]]:
        """Yield a snapshot together with `take()`, derived state of the same commit."""
        with self._readers.connection() as connection:
            while True:
                with self._applied:  # derived state cannot move while we hold this
                    connection.execute("BEGIN")
                    tick = int(connection.execute("SELECT tick FROM clock").fetchone()[0])
                    if tick == self._tick:
                        taken = take()
                        break
                    # the snapshot has a commit that `then` has not followed yet: a matter of microseconds
                    connection.execute("ROLLBACK")
                    while self._tick < tick and self._failure is None:
                        self._applied.wait()
                    if self._failure is not None and self._tick < tick:
                        raise StorageFailed(self._failure)
            yield connection, taken

    def close(self) -> None:
        """Finish the writes that wait, fold the WAL into the database, close. A second call does nothing."""
        with self._submit_lock:
            if self._closing:
                return
            self._closing = True
            self._queue.put(None)
        self._thread.join()
        self._readers.close()
        self._writer.close()

    def _run(self) -> None:
        while group := self._next_group():
            self._commit([write for write in group if write is not None])
            self._checkpoint_if_due()
            if group[-1] is None:
                return

    def _next_group(self) -> list[_Write | None]:
        group = [self._queue.get()]
        while len(group) < MAX_GROUP and group[-1] is not None:
            try:
                group.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return group

    def _commit(self, group: list[_Write]) -> None:
        try:
            self._transact(group)
        except Exception as error:  # noqa: BLE001 - boundary: the writer thread outlives whatever the disk or SQLite does
            refusal = self._refusal(error)
            if isinstance(refusal, StorageFull):
                self._make_room()
            for write in group:  # one exception each: they are raised in different threads
                write.future.set_exception(type(refusal)(*refusal.args))
            return
        self._follow(group)
        for write in group:
            if write.refusal is None:
                write.future.set_result(write.result)
            else:
                write.future.set_exception(write.refusal)

    def _transact(self, group: list[_Write]) -> None:
        """Run the group in one transaction. Raises sqlite3.Error where the disk refuses; nothing is stored then."""
        if self._failure is not None:
            for write in group:
                write.refusal = StorageFailed(self._failure)
            return
        connection = self._writer
        try:
            connection.execute("BEGIN IMMEDIATE")
            for write in group:
                self._attempt(write)
            if all(write.refusal is not None for write in group):
                connection.execute("ROLLBACK")
                return
            connection.execute("UPDATE clock SET tick = tick + 1")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _attempt(self, write: _Write) -> None:
        connection = self._writer
        connection.execute("SAVEPOINT attempt")
        try:
            write.result = write.work(connection)
        except Exception as error:  # boundary: whatever a write raises is its caller's to see, and its alone
            if isinstance(error, sqlite3.Error) and is_disk_error(error):
                raise
            connection.execute("ROLLBACK TO attempt")
            write.refusal = error
        connection.execute("RELEASE attempt")

    def _follow(self, group: list[_Write]) -> None:
        if all(write.refusal is not None for write in group):
            return
        with self._applied:
            for write in group:
                if write.refusal is not None:
                    continue
                try:
                    write.then(write.result)
                except Exception as error:  # noqa: BLE001 - boundary: derived state that lost a commit must not answer any more
                    self._failure = f"The index could not follow a write ({error!r}); restart the service."
                    write.refusal = StorageFailed(self._failure)
            if self._failure is None:
                self._tick += 1
            self._applied.notify_all()

    def _refusal(self, error: Exception) -> ServiceError:
        code = getattr(error, "sqlite_errorcode", 0)
        if code in _FULL:
            return StorageFull("the disk is full and nothing was stored; free some space and send it again.")
        if code & 0xFF == sqlite3.SQLITE_BUSY:
            return StorageFailed("another program holds the library's database; close it and send this again.")
        if code & 0xFF in DAMAGED:
            self._failure = f"The library is damaged ({error}); restore a backup."
            return LibraryInvalid(self._failure)
        self._failure = f"Writing failed ({error!r}); only reads are answered until the service restarts."
        return StorageFailed(self._failure)

    def _checkpoint_if_due(self) -> None:
        """Fold the WAL into the database where it has grown enough."""
        try:
            size = self._log.stat().st_size  # what is in it: see journal_size_limit in `_prepare`
            free = shutil.disk_usage(self._log.parent).free
        except OSError:  # then the log is folded when the library closes; a disk that fails says so at the next commit
            return
        if size < self._checkpointed_bytes:
            self._checkpointed_bytes = 0  # all was folded, and it began anew
        if size - self._checkpointed_bytes >= min(CHECKPOINT_BYTES, free):
            self._checkpoint("PASSIVE")
            self._checkpointed_bytes = size

    def _make_room(self) -> None:
        """Give back what the WAL takes of a full disk: most of it is older versions of the same pages."""
        self._writer.execute(f"PRAGMA busy_timeout = {MAKE_ROOM_S * 1000:.0f}")
        self._checkpoint("TRUNCATE")
        self._writer.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")

    def _checkpoint(self, mode: Literal["PASSIVE", "TRUNCATE"]) -> None:
        """Fold the WAL into the database. SQLite's own automatic checkpoint would keep a failed fsync to itself."""
        if self._failure is not None:
            return
        try:
            self._writer.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        except sqlite3.Error as error:
            if error.sqlite_errorcode not in _FULL:  # no room to fold: the WAL stays, which is as safe
                self._refusal(error)


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # an fsync of the WAL at each commit
    connection.execute("PRAGMA fullfsync = ON")  # macOS: through the drive's cache
    connection.execute("PRAGMA checkpoint_fullfsync = ON")
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # see _checkpoint
    connection.execute("PRAGMA journal_size_limit = 0")  # a log that begins anew is cut to what is in it
    connection.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
    migrate(connection)
    check_schema(connection)
    # 0.1 s for 100,000 points
    for table in INSPECTED:
        found = connection.execute(f"PRAGMA integrity_check({table})").fetchone()[0]
        if found != "ok":
            raise LibraryInvalid(f"the library is damaged ({found.splitlines()[-1]}); restore a backup.")


def opening_error(path: Path, error: sqlite3.Error | OSError | UnicodeError) -> ServiceError:
    """Return what SQLite or the disk says of a library's file, as an error of the service."""
    code = getattr(error, "sqlite_errorcode", 0)
    # an error of a statement, or in the text of a message, comes of a schema that is not ours
    if code & 0xFF in {*DAMAGED, sqlite3.SQLITE_ERROR} or isinstance(error, UnicodeError):
        return LibraryInvalid(
            f"{path} is not a readable library ({error}); restore a backup or name another directory."
        )
    if code in _FULL:
        return StorageFull(f"the disk that holds {path} is full; free some space.")
    return StorageFailed(f"{path} cannot be opened ({error}); check the directory and its permissions.")
