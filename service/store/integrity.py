"""The integrity check of a library: all of it compared with its checksums, and its parts with one another."""

from __future__ import annotations

import sqlite3
import zlib

from service.errors import LibraryInvalid
from service.store.filter_index import count_fields
from service.store.migrations import check_schema
from service.store.point_rows import bytes_of, is_whole, read_rows

BLOCK = 4096  # rows of `points` looked at in one step, with their vectors: 10 MB
_DAMAGED = "the library is damaged ({}); restore a backup."


def inspect(connection: sqlite3.Connection) -> dict[str, int]:
    """Read everything; return the number of points by the name of their collection.

    Raises LibraryInvalid for the first thing that is not what was written: a page or an index of SQLite, a row, a vector, a
    picture, a field of a filter.
    """
    found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise LibraryInvalid(_DAMAGED.format(found.splitlines()[-1]))  # before it only the name of the database
    check_schema(connection)
    after, fields = 0, 0
    live = {number for (number,) in connection.execute("SELECT collection FROM collections")}
    while rows := read_rows(connection, "row > ? ORDER BY row LIMIT ?", (after, BLOCK)):
        first, after = rows[0].row, rows[-1].row
        _inspect_vectors(connection, first, after, len(rows))
        _inspect_pictures(connection, first, after, {row.row: row.pictured for row in rows if row.pictured})
        # those of a dropped collection wait to be cleared away, some of them without their fields
        wanted, there = count_fields(connection, [row.row for row in rows if row.collection in live])
        if there != wanted:
            raise LibraryInvalid(_DAMAGED.format("a filter would miss points"))
        fields += wanted
    for table in ("vectors", "pictures"):
        if connection.execute(
            f"SELECT 1 FROM {table} WHERE row NOT IN (SELECT row FROM points) LIMIT 1"  # noqa: S608 - our own names
        ).fetchone():
            raise LibraryInvalid(_DAMAGED.format(f"{table} that belong to no point"))
    dropped = "SELECT key FROM field_names WHERE collection NOT IN (SELECT collection FROM collections)"
    if connection.execute(f"SELECT count(*) FROM fields WHERE key NOT IN ({dropped})").fetchone()[0] != fields:  # noqa: S608
        raise LibraryInvalid(_DAMAGED.format("a filter would find points that it does not select"))
    counted = connection.execute(
        "SELECT name, (SELECT count(*) FROM points AS p WHERE p.collection = c.collection) FROM collections AS c ORDER BY name"
    )
    return dict(counted.fetchall())


def _inspect_vectors(connection: sqlite3.Connection, first: int, last: int, expected: int) -> None:
    # a point whose collection was dropped waits to be cleared away, and nothing says how long its vector was
    found = connection.execute(
        f"SELECT v.row, {bytes_of('v.vector')}, v.crc32, c.dimension FROM vectors AS v JOIN points AS p ON p.row = v.row"  # noqa: S608 - our own names
        " LEFT JOIN collections AS c ON c.collection = p.collection WHERE v.row BETWEEN ? AND ?",
        (first, last),
    ).fetchall()
    for row, vector, crc, dimension in found:
        if zlib.crc32(vector) != crc or (dimension is not None and len(vector) != 4 * dimension):
            raise LibraryInvalid(_DAMAGED.format(f"the vector of row {row}"))
    if len(found) != expected:
        raise LibraryInvalid(_DAMAGED.format("vectors of points are missing"))


def _inspect_pictures(connection: sqlite3.Connection, first: int, last: int, expected: dict[int, int]) -> None:
    found = connection.execute(
        f"SELECT row, {bytes_of('picture')}, crc32 FROM pictures WHERE row BETWEEN ? AND ? ORDER BY row",  # noqa: S608 - our own names
        (first, last),
    )
    there = []
    for row, picture, crc in found:
        there.append(row)
        if row in expected and not is_whole(picture, crc, expected[row]):
            raise LibraryInvalid(_DAMAGED.format(f"the picture of row {row}"))
    if there != list(expected):
        raise LibraryInvalid(_DAMAGED.format("pictures of points are missing"))
