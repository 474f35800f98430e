"""Records of one collection's points, in SQL: the truth about them. Every function gets the connection of a write or of a snapshot."""

from __future__ import annotations

import itertools
import json
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from service.errors import CollectionMissing, LibraryInvalid, PointConflict, PointMissing
from service.points import Outcome, Payload, PutStatus, Rows, Source, Stored, Unset, Vector
from service.store.filter_index import erase_fields, select_rows, write_fields
from service.store.filters import Condition, Filter
from service.store.point_rows import COLUMNS, WITH_SUM, PointRow, bytes_of, checksum, damaged, is_whole, read_rows

EVERYTHING = Filter()
_SOURCE_COLUMNS = ("source_path", "source_size", "source_mtime_ns", "source_mounted")
FIRST_BLOCK = 4  # times the page: as many points are looked at before a filter is asked for all that it selects
PAGE_BLOCK = 4096  # points looked at in each further step: a few milliseconds


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
    """The changes of a write: an outcome for each record of a put, the rows that went, those that came with their vectors, and
    those whose label or payload may have changed.
    """

    outcomes: list[Outcome]
    removed: Rows
    added: Rows
    vectors: Vector  # [len(added), D]
    amended: Rows


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

    def put(self, connection: sqlite3.Connection, records: Sequence[Record], replacing: bool) -> Change:
        """Store records, each new, unchanged, replaced or in conflict with what is there."""
        self.check_exists(connection)
        known = self._known(connection, [r.id for r in records])
        outcomes: list[Outcome] = []
        new: list[Record] = []
        amended: list[tuple[PointRow, PointRow]] = []
        removed: list[int] = []
        for record in records:
            there = known.get(record.id)
            if there is not None and there.content_hash == record.content_hash:
                amended.append((there, _amended(there, record)))
                outcomes.append(Outcome(record.id, "unchanged"))
            elif record.vector is None:
                outcomes.append(
                    Outcome(record.id, error=PointConflict("the stored content has changed; send it again."))
                )
            elif there is None or replacing:
                status: PutStatus = "created" if there is None else "replaced"
                outcomes.append(Outcome(record.id, status))
                if there is not None:
                    record = _inheriting(there, record)
                    removed.append(there.row)
                new.append(record)
            else:
                conflict = PointConflict("the id exists with other content; use another id, or replace=true.")
                outcomes.append(Outcome(record.id, error=conflict))
        gone = np.array(sorted(removed), np.int64)
        delete_rows(connection, gone)
        changed = _amend(connection, amended)
        vectors = [r.vector for r in new if r.vector is not None]
        stacked = np.stack(vectors) if vectors else np.empty((0, self.dimension), np.float32)
        return Change(outcomes, gone, self._insert(connection, new, stacked), stacked, changed)

    def _known(self, connection: sqlite3.Connection, ids: Iterable[str]) -> dict[str, PointRow]:
        where = "collection = ? AND id IN (SELECT value FROM json_each(?))"
        return {row.id: row for row in read_rows(connection, where, (self.collection, json.dumps(list(ids))))}

    def _insert(self, connection: sqlite3.Connection, records: Sequence[Record], vectors: Vector) -> Rows:
        if not records:
            return np.empty(0, np.int64)
        last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'points'").fetchone()
        first = 1 if last is None else last[0] + 1
        rows = [
            PointRow(
                row,
                self.collection,
                r.id,
                r.content_hash,
                None if isinstance(r.label, Unset) else r.label,
                None if isinstance(r.payload, Unset) else r.payload,
                pictured=0 if r.picture is None else WITH_SUM,
                **_source_columns(r.source),
            )
            for row, r in enumerate(records, start=first)
        ]
        connection.executemany(
            f"INSERT INTO points ({COLUMNS}, crc32) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - our own names
            [(*row, checksum(*row)) for row in rows],
        )
        blobs = [vector.tobytes() for vector in vectors.astype("<f4", copy=False)]
        _insert_blobs(connection, "vector", [(row.row, blob) for row, blob in zip(rows, blobs, strict=True)])
        pictures = [(row.row, r.picture) for row, r in zip(rows, records, strict=True) if r.picture is not None]
        _insert_blobs(connection, "picture", pictures)
        write_fields(connection, [row.row for row in rows if row.payload is not None])
        return np.arange(first, first + len(records), dtype=np.int64)

    def update(
        self, connection: sqlite3.Connection, id_: str, label: str | Unset | None, payload: str | Unset | None
    ) -> StoredPoint:
        """Set label and payload where they are not UNSET. Raises PointMissing."""
        self.check_exists(connection)
        there = self._row(connection, id_)
        changed = _amended(there, Record(id_, there.content_hash, None, label, payload, None, None))
        _amend(connection, [(there, changed)])
        return _stored_point(changed)

    def delete(self, connection: sqlite3.Connection, condition: Condition) -> Rows:
        """Delete the points that a condition selects; return their rows, ascending."""
        self.check_exists(connection)
        rows = self.matching(connection, condition)
        delete_rows(connection, rows)
        return rows

    def point(self, connection: sqlite3.Connection, id_: str) -> StoredPoint:
        """Return one point. Raises PointMissing."""
        return _stored_point(self._row(connection, id_))

    def _row(self, connection: sqlite3.Connection, id_: str) -> PointRow:
        found = read_rows(connection, "collection = ? AND id = ?", (self.collection, id_))
        if not found:
            raise PointMissing("no point has this id; check the id, or put it first.")
        return found[0]

    def by_rows(self, connection: sqlite3.Connection, rows: Rows) -> dict[int, StoredPoint]:
        """Return the points of these rows, by row."""
        return {found.row: _stored_point(found) for found in _read_some(connection, np.unique(rows[rows >= 0]))}

    def matching(self, connection: sqlite3.Connection, condition: Condition) -> Rows:
        """Return the rows of the points that a condition selects, ascending."""
        return select_rows(connection, self.collection, condition)

    def matching_among(self, connection: sqlite3.Connection, condition: Condition, rows: Rows) -> Rows:
        """Return those of these rows (ascending) that are there and that a condition selects, ascending."""
        return select_rows(connection, self.collection, condition, rows)

    def count(self, connection: sqlite3.Connection, condition: Condition) -> int:
        """Return how many points a condition selects."""
        if condition != EVERYTHING:
            return len(self.matching(connection, condition))
        found = connection.execute("SELECT count(*) FROM points WHERE collection = ?", (self.collection,)).fetchone()
        return int(found[0])

    def page(self, connection: sqlite3.Connection, condition: Condition, after: str, limit: int) -> list[StoredPoint]:
        """Return up to `limit` points that a condition selects, in the order of their ids, after the id `after`."""
        if condition == EVERYTHING:
            where = "collection = ? AND id > ? ORDER BY id LIMIT ?"
            return [_stored_point(row) for row in read_rows(connection, where, (self.collection, after, limit))]
        page = self._page_rows(connection, condition, after, limit)
        points = self.by_rows(connection, page)
        return [points[row] for row in page.tolist()]

    def _page_rows(self, connection: sqlite3.Connection, condition: Condition, after: str, limit: int) -> Rows:
        """Return what `page` does, as rows."""
        listed = connection.execute(
            "SELECT row FROM points INDEXED BY points_by_id WHERE collection = ? AND id > ? ORDER BY id",
            (self.collection, after),
        )
        block = _rows(listed.fetchmany(FIRST_BLOCK * limit))
        page = block[np.isin(block, self.matching_among(connection, condition, np.sort(block)))]
        if len(page) >= limit or len(block) < FIRST_BLOCK * limit:
            return page[:limit]
        selected = self.matching(connection, condition)
        if len(selected) <= PAGE_BLOCK:
            # `+`: not by looking through all ids
            few = "row IN (SELECT value FROM json_each(?)) AND +id > ? ORDER BY +id LIMIT ?"
            found = connection.execute(
                f"SELECT row FROM points WHERE {few}",  # noqa: S608 - values are bound
                (json.dumps(selected.tolist()), after, limit),
            )
            return _rows(found.fetchall())
        while len(page) < limit and len(block := _rows(listed.fetchmany(PAGE_BLOCK))):
            page = np.concatenate([page, block[np.isin(block, selected)]])
        return page[:limit]

    def picture(self, connection: sqlite3.Connection, id_: str) -> bytes | None:
        """Return the picture kept for a point, or None. Raises PointMissing."""
        point = self._row(connection, id_)
        if not point.pictured:
            return None
        kept = f"SELECT {bytes_of('picture')}, crc32 FROM pictures WHERE row = ?"  # noqa: S608 - our own names
        found = connection.execute(kept, (point.row,)).fetchone()
        picture, crc = found or (b"", -1)  # a checksum that nothing has: it got lost
        if not is_whole(picture, crc, point.pictured):
            raise damaged(point.row)
        return bytes(picture)

    def stored(self, connection: sqlite3.Connection, condition: Condition) -> dict[str, Stored]:
        """Return content hash, label and source of the points that a condition selects, by id."""
        if condition == EVERYTHING:
            found = read_rows(connection, "collection = ?", (self.collection,))
        else:
            found = _read_some(connection, self.matching(connection, condition))
        return {row.id: Stored(row.content_hash, row.label, _source(row)) for row in found}

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


def read_epoch(connection: sqlite3.Connection) -> bytes:
    """Return the 16 bytes that a library drew when it was made, or restored from a backup. Raises LibraryInvalid."""
    found = connection.execute("SELECT epoch FROM identity").fetchone()
    if found is None or not isinstance(found[0], bytes):
        raise LibraryInvalid("the library's own number is damaged; restore a backup.")
    return found[0]


def delete_rows(connection: sqlite3.Connection, rows: Rows) -> None:
    """Delete points with all that hangs on them. Raises LibraryInvalid where one is damaged: its fields would stay."""
    if not len(rows):
        return
    erase_fields(connection, [row.row for row in _read_some(connection, rows) if row.payload is not None])
    clear_rows(connection, rows)


def clear_rows(connection: sqlite3.Connection, rows: Rows) -> None:
    """Delete points with their vectors and pictures, whose fields are gone."""
    wanted = json.dumps(rows.tolist())
    for table in ("points", "vectors", "pictures"):
        connection.execute(f"DELETE FROM {table} WHERE row IN (SELECT value FROM json_each(?))", (wanted,))  # noqa: S608


def _insert_blobs(connection: sqlite3.Connection, kind: str, blobs: Sequence[tuple[int, bytes]]) -> None:
    connection.executemany(
        f"INSERT INTO {kind}s (row, {kind}, crc32) VALUES (?, ?, ?)",  # noqa: S608 - our own names
        [(row, blob, zlib.crc32(blob)) for row, blob in blobs],
    )


def _rows(found: list[tuple[int]]) -> Rows:
    return np.fromiter(itertools.chain.from_iterable(found), np.int64, len(found))


def _read_some(connection: sqlite3.Connection, rows: Rows) -> list[PointRow]:
    return read_rows(connection, "row IN (SELECT value FROM json_each(?))", (json.dumps(rows.tolist()),))


def _amend(connection: sqlite3.Connection, changes: Sequence[tuple[PointRow, PointRow]]) -> Rows:
    """Write rows as they shall be over rows as they are, where they differ; return their numbers, ascending."""
    changes = [(there, new) for there, new in changes if there != new]
    fields = [(there, new) for there, new in changes if there.payload != new.payload]
    erase_fields(connection, [there.row for there, _ in fields if there.payload is not None])
    connection.executemany(
        "UPDATE points SET label = :label, payload = :payload, source_path = :source_path, source_size = :source_size,"
        " source_mtime_ns = :source_mtime_ns, source_mounted = :source_mounted, crc32 = :crc32 WHERE row = :row",
        [{**new._asdict(), "crc32": checksum(*new)} for _, new in changes],
    )
    write_fields(connection, [new.row for _, new in fields if new.payload is not None])
    return np.array(sorted(new.row for _, new in changes), np.int64)


def _amended(there: PointRow, record: Record) -> PointRow:
    """Return a row with what the record of the same content says."""
    changes: dict[str, Any] = {}
    if not isinstance(record.label, Unset):
        changes["label"] = record.label
    if not isinstance(record.payload, Unset):
        changes["payload"] = record.payload
    if record.source is not None:
        changes |= _source_columns(record.source)
    return there._replace(**changes)


def _inheriting(there: PointRow, record: Record) -> Record:
    """Return the record with what it does not say taken from the row that it replaces."""
    return replace(
        record,
        label=there.label if isinstance(record.label, Unset) else record.label,
        payload=there.payload if isinstance(record.payload, Unset) else record.payload,
    )


def _source_columns(source: Source | None) -> dict[str, Any]:
    if source is None:
        return dict.fromkeys(_SOURCE_COLUMNS)
    mounted = None if source.mounted is None else int(source.mounted)  # as it is read again, for the checksum
    return dict(zip(_SOURCE_COLUMNS, (source.path, source.size, source.mtime_ns, mounted), strict=True))


def _source(row: PointRow) -> Source | None:
    if row.source_path is None or row.source_size is None or row.source_mtime_ns is None:
        return None
    mounted = None if row.source_mounted is None else bool(row.source_mounted)
    return Source(row.source_path, row.source_size, row.source_mtime_ns, mounted)


def _stored_point(row: PointRow) -> StoredPoint:
    return StoredPoint(row.row, row.id, row.label, None if row.payload is None else json.loads(row.payload))
