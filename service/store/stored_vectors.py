"""Stored vectors, as the index reads them from the database when a library opens. What is damaged is found here."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

from service.errors import LibraryInvalid
from service.points import Rows, Vector
from service.store.point_rows import bytes_of

BATCH = 4096  # vectors read at a time: 6 MB of 384-d ones


def read_vectors(connection: sqlite3.Connection, after: Mapping[int, int]) -> Iterator[tuple[int, Rows, Vector]]:
    """Yield every vector of the collections in `after` beyond the row given there, in the order of rows.

    Yields: collection, rows [B], vectors [B, D], B up to BATCH. Raises LibraryInvalid where a vector is not what was written.
    """
    if not after:
        return
    found = connection.execute(
        f"SELECT c.collection, c.dimension, p.row, {bytes_of('v.vector')}, v.crc32 FROM points AS p LEFT JOIN vectors AS v"  # noqa: S608 - our own names
        " ON v.row = p.row CROSS JOIN collections AS c ON c.collection = p.collection WHERE p.row > ?1"
        " AND (?2 IS NULL OR p.row > (SELECT value FROM json_each(?2) WHERE key = CAST(p.collection AS TEXT)))"
        " ORDER BY p.row",
        (min(after.values()), None if len(set(after.values())) == 1 else json.dumps(after)),
    )
    while block := found.fetchmany(BATCH):
        by_collection: dict[tuple[int, int], list[tuple[int, bytes]]] = {}
        for collection, dimension, row, vector, crc in block:
            _check(row, vector, crc, dimension)
            by_collection.setdefault((collection, dimension), []).append((row, vector))
        for (collection, dimension), pairs in by_collection.items():
            yield collection, np.array([row for row, _ in pairs], np.int64), _stacked([b for _, b in pairs], dimension)


def surviving_rows(connection: sqlite3.Connection, collection: int, last: int, known: int) -> Rows | None:
    """Return those rows of a collection up to `last` that are still there, ascending; None where they are as many as the `known`.

    Rows are never used again, so of a set of known rows, as many as there were are those that there were.
    """
    where = "FROM points WHERE collection = ? AND row <= ?"
    count = connection.execute(f"SELECT count(*) {where}", (collection, last)).fetchone()[0]
    if count == known:
        return None
    found = connection.execute(f"SELECT row {where}", (collection, last))
    return np.sort(np.fromiter((row for (row,) in found), np.int64))


def vectors_of_rows(connection: sqlite3.Connection, rows: Rows, dimension: int) -> Vector:
    """Return the vectors [B, D] of rows. Raises LibraryInvalid where one is missing or is not what was written."""
    found = connection.execute(
        f"SELECT row, {bytes_of('vector')}, crc32 FROM vectors WHERE row IN (SELECT value FROM json_each(?)) ORDER BY row",  # noqa: S608 - our own names
        (json.dumps(rows.tolist()),),
    ).fetchall()
    if len(found) != len(rows):
        raise LibraryInvalid("vectors of stored points are missing; restore a backup.")
    for row, vector, crc in found:
        _check(row, vector, crc, dimension)
    return _stacked([vector for _, vector, _ in found], dimension)


def _check(row: int, vector: bytes, crc: int | None, dimension: int) -> None:
    if len(vector) != 4 * dimension or zlib.crc32(vector) != crc:
        raise LibraryInvalid(f"the vector of row {row} is damaged; restore a backup.")


def _stacked(blobs: list[bytes], dimension: int) -> Vector:
    return np.frombuffer(b"".join(blobs), "<f4").reshape(-1, dimension).astype(np.float32, copy=False)
