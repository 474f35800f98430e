"""Connections to the SQLite file: how one is made, and those that readers borrow."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from service.errors import LibraryInvalid, StorageFailed

BUSY_TIMEOUT_S = 30  # nobody else should hold the file; a person's sqlite3 shell gets this long to let go
IDLE_READERS = 8  # connections kept open between reads: a few requests' worth; each holds a page cache of 2 MB at most

DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_DISK |= {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection that one thread uses at a time, and whose transactions are ours to begin and end."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S)


def is_disk_error(error: sqlite3.Error) -> bool:
    """Whether the disk or the file is at fault, rather than the statement."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DISK  # errors of the Python module itself have no code


class Readers:
    """Connections that only read, borrowed for one read each and kept for the next."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False

    @contextlib.contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection. Raises StorageFailed where the disk fails, also during the read, and once closed; LibraryInvalid
        where the file is damaged.
        """
        connection = None
        try:
            connection = self._take()
            yield connection
        except sqlite3.Error as error:
            if not is_disk_error(error):
                raise
            if error.sqlite_errorcode & 0xFF in DAMAGED:
                raise LibraryInvalid(f"the library is damaged ({error}); restore a backup.") from error
            raise StorageFailed(f"the library could not be read ({error}); check the disk.") from error
        finally:
            if connection is not None:
                self._give_back(connection)

    def close(self) -> None:
        """Close what is idle; a connection that is still lent is closed when it comes back."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop().close()

    def _take(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise StorageFailed("the library is closed.")
            if self._idle:
                return self._idle.pop()
        connection = connect(self._path)
        connection.execute("PRAGMA query_only = ON")
        return connection

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with contextlib.suppress(sqlite3.Error):  # ends a read: there is nothing in it to lose
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        with self._lock:
            if len(self._idle) < IDLE_READERS and not self._closed:
                self._idle.append(connection)
            else:
                connection.close()
