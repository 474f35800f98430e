"""The truth about one collection's points, in SQL. Every function gets the connection of a write or of a snapshot."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.errors import CollectionMissing, LibraryInvalid, PointConflict, PointMissing
from service.filters import Condition, compile_filter
from service.points import UNSET, Outcome, Payload, PutStatus, Source, Stored, Unset, Vector
from service.vectors import Rows


@dataclass(frozen=True)
class Record:
    """A `points.NewPoint` that passed every check: the payload as JSON text, the vector [D] of unit length."""

    id: str
    content_hash: bytes
    vector: Vector | None
    label: str | Unset | None
    payload: str | Unset | None
    picture: bytes | None
    source: Source | None


@dataclass(frozen=True)
class Change:
    """What a put did: an outcome for each record, the rows that went, and the rows that came with their vectors."""

    outcomes: list[Outcome]
    removed: Rows
    added: Rows
    vectors: Vector  # [len(added), D]


@dataclass(frozen=True)
class StoredPoint:
    """A row of `points` as it is read."""

    row: int
    id: str
    label: str | None
    payload: Payload | None


class Records:
    """The records of the collection with this number."""

    def __init__(self, collection: int, dimension: int) -> None:
        self.collection = collection
        self.dimension = dimension

    def check_exists(self, connection: sqlite3.Connection) -> None:
        """Raise CollectionMissing if the collection has been dropped."""
        found = connection.execute("SELECT 1 FROM collections WHERE collection = ?", (self.collection,)).fetchone()
        if found is None:
            raise CollectionMissing("the collection has been deleted.")

    def put(self, connection: sqlite3.Connection, records: Sequence[Record], replace: bool) -> Change:
        """Store records, each new, unchanged, replaced or in conflict with what is there."""
        self.check_exists(connection)
        known = self._known(connection, [r.id for r in records])
        outcomes: list[Outcome] = []
        new: list[Record] = []
        removed: list[int] = []
        for record in records:
            row, content_hash = known.get(record.id, (None, None))
            if row is not None and content_hash == record.content_hash:
                self._amend(connection, row, record)
                outcomes.append(Outcome(record.id, "unchanged"))
            elif record.vector is None:
                outcomes.append(
                    Outcome(record.id, error=PointConflict("the stored content has changed; send it again."))
                )
            elif row is None or replace:
                status: PutStatus = "created" if row is None else "replaced"
                outcomes.append(Outcome(record.id, status))
                if row is not None:
                    record = self._inheriting(connection, row, record)
                    removed.append(row)
                new.append(record)
            else:
                conflict = PointConflict("the id exists with other content; use another id, or replace=true.")
                outcomes.append(Outcome(record.id, error=conflict))
        gone = np.array(sorted(removed), np.int64)
        delete_rows(connection, gone)
        vectors = [r.vector for r in new if r.vector is not None]
        stacked = np.stack(vectors) if vectors else np.empty((0, self.dimension), np.float32)
        return Change(outcomes, gone, self._insert(connection, new), stacked)

    def _known(self, connection: sqlite3.Connection, ids: Iterable[str]) -> dict[str, tuple[int, bytes]]:
        found = connection.execute(
            "SELECT id, row, content_hash FROM points WHERE collection = ? AND id IN (SELECT value FROM json_each(?))",
            (self.collection, json.dumps(list(ids))),
        )
        return {id_: (row, content_hash) for id_, row, content_hash in found}

    def _amend(self, connection: sqlite3.Connection, row: int, record: Record) -> None:
        changes: dict[str, Any] = {}
        if record.label is not UNSET:
            changes["label"] = record.label
        if record.payload is not UNSET:
            changes["payload"] = record.payload
        if record.source is not None:
            changes |= _source_columns(record.source)
        if changes:
            columns = ", ".join(f"{column} = ?" for column in changes)  # our own names, not a request's
            connection.execute(f"UPDATE points SET {columns} WHERE row = ?", (*changes.values(), row))  # noqa: S608

    def _inheriting(self, connection: sqlite3.Connection, row: int, record: Record) -> Record:
        """Return the record with what it does not say taken from the row it replaces."""
        label, payload = connection.execute("SELECT label, payload FROM points WHERE row = ?", (row,)).fetchone()
        return Record(
            record.id,
            record.content_hash,
            record.vector,
            label if record.label is UNSET else record.label,
            payload if record.payload is UNSET else record.payload,
            record.picture,
            record.source,
        )

    def _insert(self, connection: sqlite3.Connection, records: Sequence[Record]) -> Rows:
        if not records:
            return np.empty(0, np.int64)
        last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'points'").fetchone()
        first = 1 if last is None else last[0] + 1
        numbered = list(enumerate(records, start=first))
        connection.executemany(
            "INSERT INTO points (row, collection, id, content_hash, label, payload, source_path, source_size,"
            " source_mtime_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    row,
                    self.collection,
                    r.id,
                    r.content_hash,
                    None if r.label is UNSET else r.label,
                    None if r.payload is UNSET else r.payload,
                    *_source_columns(r.source).values(),
                )
                for row, r in numbered
            ],
        )
        blobs = [(row, r.vector.astype("<f4").tobytes()) for row, r in numbered if r.vector is not None]
        connection.executemany(
            "INSERT INTO vectors (row, vector, crc32) VALUES (?, ?, ?)",
            [(row, blob, zlib.crc32(blob)) for row, blob in blobs],
        )
        pictures = [(row, r.picture) for row, r in numbered if r.picture is not None]
        connection.executemany("INSERT INTO pictures (row, picture) VALUES (?, ?)", pictures)
        return np.arange(first, first + len(records), dtype=np.int64)

    def update(
        self, connection: sqlite3.Connection, id_: str, label: str | Unset | None, payload: str | Unset | None
    ) -> StoredPoint:
        """Set label and payload where they are not UNSET. Raises PointMissing."""
        self.check_exists(connection)
        row = self.point(connection, id_).row
        self._amend(connection, row, Record(id_, b"", None, label, payload, None, None))
        return self.point(connection, id_)

    def delete(self, connection: sqlite3.Connection, condition: Condition) -> Rows:
        """Delete the points that a condition selects; return their rows, ascending."""
        self.check_exists(connection)
        rows = self.matching(connection, condition)
        delete_rows(connection, rows)
        return rows

    def point(self, connection: sqlite3.Connection, id_: str) -> StoredPoint:
        """Return one point. Raises PointMissing."""
        found = connection.execute(
            "SELECT row, id, label, payload FROM points WHERE collection = ? AND id = ?", (self.collection, id_)
        ).fetchone()
        if found is None:
            raise PointMissing("no point has this id; check the id, or put it first.")
        return _stored_point(found)

    def by_rows(self, connection: sqlite3.Connection, rows: Rows) -> dict[int, StoredPoint]:
        """Return the points of these rows, by row."""
        wanted = json.dumps(np.unique(rows[rows >= 0]).tolist())
        found = connection.execute(
            "SELECT row, id, label, payload FROM points WHERE row IN (SELECT value FROM json_each(?))", (wanted,)
        )
        return {row[0]: _stored_point(row) for row in found}

    def matching(self, connection: sqlite3.Connection, condition: Condition) -> Rows:
        """Return the rows of the points that a condition selects, ascending."""
        sql, parameters = compile_filter(condition)
        found = connection.execute(
            f"SELECT p.row FROM points AS p WHERE p.collection = ? AND {sql}",  # noqa: S608 - values are bound
            (self.collection, *parameters),
        )
        return np.sort(np.fromiter((row for (row,) in found), np.int64))

    def count(self, connection: sqlite3.Connection, condition: Condition) -> int:
        """Return how many points a condition selects."""
        sql, parameters = compile_filter(condition)
        query = f"SELECT count(*) FROM points AS p WHERE p.collection = ? AND {sql}"  # noqa: S608 - values are bound
        return int(connection.execute(query, (self.collection, *parameters)).fetchone()[0])

    def page(self, connection: sqlite3.Connection, condition: Condition, after: str, limit: int) -> list[StoredPoint]:
        """Return up to `limit` points that a condition selects, in the order of their ids, after the id `after`."""
        sql, parameters = compile_filter(condition)
        found = connection.execute(
            "SELECT p.row, p.id, p.label, p.payload FROM points AS p INDEXED BY points_by_id"  # noqa: S608 - values are bound
            f" WHERE p.collection = ? AND p.id > ? AND {sql} ORDER BY p.id LIMIT ?",
            (self.collection, after, *parameters, limit),
        )
        return [_stored_point(row) for row in found]

    def picture(self, connection: sqlite3.Connection, id_: str) -> bytes | None:
        """Return the picture kept for a point, or None. Raises PointMissing."""
        row = self.point(connection, id_).row
        found = connection.execute("SELECT picture FROM pictures WHERE row = ?", (row,)).fetchone()
        return None if found is None else found[0]

    def stored(self, connection: sqlite3.Connection, condition: Condition) -> dict[str, Stored]:
        """Return content hash and source of the points that a condition selects, by id."""
        sql, parameters = compile_filter(condition)
        found = connection.execute(
            "SELECT p.id, p.content_hash, p.source_path, p.source_size, p.source_mtime_ns FROM points AS p"  # noqa: S608 - values are bound
            f" WHERE p.collection = ? AND {sql}",
            (self.collection, *parameters),
        )
        return {
            id_: Stored(content_hash, None if path is None else Source(path, size, mtime_ns))
            for id_, content_hash, path, size, mtime_ns in found
        }

    def labels_by_row(self, connection: sqlite3.Connection) -> dict[int, str]:
        """Return the label of every labelled point, by row."""
        found = connection.execute(
            "SELECT row, label FROM points WHERE collection = ? AND label IS NOT NULL", (self.collection,)
        )
        return dict(found.fetchall())

    def labels(self, connection: sqlite3.Connection) -> dict[str, int]:
        """Return how many points bear each label."""
        found = connection.execute(
            "SELECT label, count(*) FROM points WHERE collection = ? AND label IS NOT NULL GROUP BY label",
            (self.collection,),
        )
        return dict(found.fetchall())


def delete_rows(connection: sqlite3.Connection, rows: Rows) -> None:
    """Delete points with their vectors and pictures."""
    if not len(rows):
        return
    wanted = json.dumps(rows.tolist())
    for table in ("points", "vectors", "pictures"):
        connection.execute(f"DELETE FROM {table} WHERE row IN (SELECT value FROM json_each(?))", (wanted,))  # noqa: S608


def read_vectors(connection: sqlite3.Connection, batch: int = 4096) -> Iterator[tuple[int, Rows, Vector]]:
    """Yield every vector, in the order of rows: collection, rows [B], vectors [B, D], B up to `batch`.

    Raises LibraryInvalid where a vector is not what was written.
    """
    found = connection.execute(
        "SELECT c.collection, c.dimension, p.row, v.vector, v.crc32 FROM points AS p CROSS JOIN vectors AS v"
        " ON v.row = p.row JOIN collections AS c ON c.collection = p.collection ORDER BY p.row"
    )
    while block := found.fetchmany(batch):
        by_collection: dict[tuple[int, int], list[tuple[int, bytes]]] = {}
        for collection, dimension, row, blob, crc in block:
            if len(blob) != 4 * dimension or zlib.crc32(blob) != crc:
                raise LibraryInvalid(f"the vector of row {row} is damaged; restore a backup.")
            by_collection.setdefault((collection, dimension), []).append((row, blob))
        for (collection, dimension), pairs in by_collection.items():
            vectors = np.frombuffer(b"".join(blob for _, blob in pairs), "<f4").reshape(-1, dimension)
            yield collection, np.array([row for row, _ in pairs], np.int64), vectors.astype(np.float32, copy=False)


def _source_columns(source: Source | None) -> dict[str, str | int | None]:
    return {
        "source_path": source.path if source else None,
        "source_size": source.size if source else None,
        "source_mtime_ns": source.mtime_ns if source else None,
    }


def _stored_point(row: tuple[int, str, str | None, str | None]) -> StoredPoint:
    return StoredPoint(row[0], row[1], row[2], None if row[3] is None else json.loads(row[3]))
