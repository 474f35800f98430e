"""The library: all collections of one data directory. SQLite is the truth; the index of each collection follows it.

Invariants, which the rest of the package may rely on and the tests hold:

1. A write that returned survives SIGKILL and power loss: it returns after an fsync of its commit, and the directory that
   holds the file is synced when the file is made. A write that did not return is wholly there or wholly absent.
2. A row number names one vector for ever. New content under an old id is a new row; rows only grow and are not reused.
3. Only the writer thread changes an index, after the commit and before the write returns.
4. Every search reads the records and the index of one commit (`Database.aligned`), so it returns no point that is gone
   and misses none that was acknowledged before it began.
5. A view of an index never changes; what is written later goes where no view looks.
6. The index holds finite unit vectors only: what goes in has passed `points.unit_rows`, what is loaded its checksum.
7. One process holds a data directory.
8. Nothing of a dropped collection is reachable, although its rows are cleared away later: its number is never reused.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Self

from backbone.durable import PRIVATE_FOLDER, DirectoryLock, lock_directory
from backbone.machine import usable_cores
from service.errors import CollectionConflict, CollectionMissing, FingerprintMismatch
from service.index import segment_files
from service.index.vector_index import VectorIndex
from service.library.builder import Builder, IndexedCollection
from service.library.collection import Collection
from service.library.jobs import Jobs
from service.library.recovery import start
from service.points import Keep, check_collection_name
from service.store.database import DATABASE_NAME, INDEX_FOLDER, Database
from service.store.privacy import check_directory, take_possession
from service.store.purge import start_purge
from service.store.records import read_epoch
from service.store.stored_vectors import read_vectors

__all__ = ["Collection", "Library"]

_Row = tuple[int, str, str, int, Keep]


class Library:
    """The collections and jobs of a data directory, held by this process until `close`."""

    def __init__(
        self, lock: DirectoryLock, database: Database, builder: Builder, index_folder: Path, threads: int
    ) -> None:
        self._threads = threads
        self._lock = lock
        self._database = database
        self._index_folder = index_folder
        self._builder = builder
        with database.snapshot() as connection:
            self._epoch = read_epoch(connection).hex()
            by_number = self._loaded(connection)
        self._collections = {c.name: c for c in by_number.values()}
        segment_files.clear_others(index_folder, by_number)
        database.write(_clear_unfinished, lambda _: self._consider_all())
        start_purge(database)
        self.jobs = Jobs(database)

    @classmethod
    def open(cls, data_dir: Path, threads: int = 0) -> Self:
        """Open the library in a directory, making both where they are missing; FAISS gets `threads`, 0 for all cores.

        What is made is its owner's alone. Raises backbone's DirectoryLocked where another process holds it and StorageFailed where it
        cannot be made; LibraryInvalid where it holds something else or is damaged, StorageFailed and StorageFull for the disk, and
        where a part of it cannot be written.
        """
        with contextlib.ExitStack() as undo:
            index_folder, threads = data_dir / INDEX_FOLDER, threads or usable_cores()
            check_directory(data_dir)
            lock = lock_directory(data_dir, PRIVATE_FOLDER)
            undo.callback(lock.release)
            take_possession(data_dir / DATABASE_NAME, index_folder)
            database = Database(data_dir / DATABASE_NAME)
            undo.callback(database.close)
            builder = Builder(database, index_folder, threads)
            undo.callback(builder.close)
            library = cls(lock, database, builder, index_folder, threads)
            undo.pop_all()
        return library

    def close(self) -> None:
        """Stop the jobs, finish the writes that wait, let go of the directory. A second call does nothing."""
        self.jobs.close()
        self._builder.close()
        self._database.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def writable(self) -> bool:
        """Whether writes are accepted: false after the disk failed, until a restart, and once closed."""
        return self._database.writable

    def collections(self) -> list[Collection]:
        """Return the collections in the order of their names."""
        return sorted(self._collections.values(), key=lambda c: c.name)

    def collection(self, name: str) -> Collection:
        """Return a collection. Raises CollectionMissing."""
        found = self._collections.get(name)
        if found is None:
            raise CollectionMissing(f"there is no collection {name[:128]!r}; create it first, or check the name.")
        return found

    def create(self, name: str, fingerprint: str, dimension: int, keep: Keep | None = None) -> tuple[Collection, bool]:
        """Return the collection of this name and whether it was made now.

        `keep` None asks for nothing in particular: "thumbnail" for a new one (pictures to look at, at a hundredth of
        the space). Raises InvalidName; FingerprintMismatch and CollectionConflict where it exists with another model,
        dimension or `keep`.
        """
        check_collection_name(name)

        def work(connection: sqlite3.Connection) -> tuple[_Row, bool]:
            found: _Row | None = connection.execute(
                "SELECT collection, name, fingerprint, dimension, keep FROM collections WHERE name = ?", (name,)
            ).fetchone()
            if found is not None:
                _check_same(found, fingerprint, dimension, keep)
                return found, False
            kept: Keep = keep or "thumbnail"
            number = connection.execute(
                "INSERT INTO collections (name, fingerprint, dimension, keep, created_at) VALUES (?, ?, ?, ?, ?)",
                (name, fingerprint, dimension, kept, time.time()),
            ).lastrowid
            assert number is not None
            return (number, name, fingerprint, dimension, kept), True

        def follow(result: tuple[_Row, bool]) -> None:
            row, created = result
            if created:
                self._collections[name] = self._collection(*row)

        _, created = self._database.write(work, follow)
        return self.collection(name), created

    def drop(self, name: str) -> None:
        """Delete a collection with all that is in it. Raises CollectionMissing."""

        def work(connection: sqlite3.Connection) -> None:
            if connection.execute("DELETE FROM collections WHERE name = ?", (name,)).rowcount == 0:
                raise CollectionMissing(f"there is no collection {name[:128]!r}.")

        def follow(_: None) -> None:
            self._builder.drop(self._collections.pop(name).indexed)

        check_collection_name(name)
        self._database.write(work, follow)
        start_purge(self._database)

    def _collection(self, number: int, name: str, fingerprint: str, dimension: int, keep: Keep) -> Collection:
        identity = segment_files.SegmentIdentity(self._epoch, number, fingerprint, dimension)
        indexed = IndexedCollection(identity, VectorIndex(dimension, self._threads))
        return Collection(self._database, self._builder, indexed, name, keep)

    def _loaded(self, connection: sqlite3.Connection) -> dict[int, Collection]:
        """Return every collection by its number, its index brought to the records: from a main segment where one holds them, the rest
        from the database.
        """
        found = connection.execute("SELECT collection, name, fingerprint, dimension, keep FROM collections")
        by_number = {row[0]: self._collection(*row) for row in found.fetchall()}
        after = {number: start(connection, self._index_folder, c.indexed) for number, c in by_number.items()}
        for number, rows, vectors in read_vectors(connection, after):
            by_number[number].indexed.index.add(rows, vectors)
        return by_number

    def _consider_all(self) -> None:
        for collection in self._collections.values():
            self._builder.consider(collection.indexed)


def _check_same(found: _Row, fingerprint: str, dimension: int, keep: Keep | None) -> None:
    _, name, its_fingerprint, its_dimension, its_keep = found
    if its_fingerprint != fingerprint:
        raise FingerprintMismatch(
            f"the collection {name} holds vectors of the model {its_fingerprint}, not of {fingerprint};"
            " use that model, or another collection."
        )
    if its_dimension != dimension:
        raise CollectionConflict(f"the collection {name} has {its_dimension} dimensions, not {dimension}.")
    if keep is not None and its_keep != keep:
        raise CollectionConflict(f"the collection {name} keeps {its_keep!r} of its pictures, not {keep!r}.")


def _clear_unfinished(connection: sqlite3.Connection) -> None:
    """Forget clusterings that were being written when the service stopped; the purge takes their members."""
    connection.execute("DELETE FROM clusterings WHERE NOT finished")
