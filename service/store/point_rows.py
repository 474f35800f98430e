"""A row of `points` as SQLite keeps it, with the checksum that tells a damaged one."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from service.errors import LibraryInvalid

COLUMNS = "row, collection, id, content_hash, label, payload, source_path, source_size, source_mtime_ns, pictured, source_mounted"

WITHOUT_SUM, WITH_SUM = 1, 2  # a picture from before pictures had checksums, and a later one
_PICTURED = {0: "", WITHOUT_SUM: "pictured", WITH_SUM: "pictured with its checksum"}


class PointRow(NamedTuple):
    """The columns of a row of `points`, in the order of COLUMNS; the payload is JSON text.

    `pictured` says that a picture is kept (WITHOUT_SUM, WITH_SUM), so that one that got lost is not taken for none, nor one whose
    checksum got lost for one from before there were any.
    """

    row: int
    collection: int
    id: str
    content_hash: bytes
    label: str | None
    payload: str | None
    source_path: str | None
    source_size: int | None
    source_mtime_ns: int | None
    pictured: int
    source_mounted: int | None


def checksum(
    row: int,
    collection: int,
    id_: str,
    content_hash: bytes,
    label: str | None,
    payload: str | None,
    source_path: str | None,
    source_size: int | None,
    source_mtime_ns: int | None,
    pictured: int = 0,
    source_mounted: int | None = None,
) -> int:
    """Return the CRC-32 of a row. Its number is part of it: content that turns up under another row is damage too.

    That of a row without a picture is as it was before rows said so, and so is that of a row that does not know `source_mounted`.
    """
    # no text of a row is empty or holds U+0000, so that no two rows are written alike
    text = (
        f"{row}\0{collection}\0{id_}\0{label or ''}\0{payload or ''}\0{source_path or ''}\0"
        f"{source_size}\0{source_mtime_ns}\0{_PICTURED.get(pictured, pictured)}"
    )
    if source_mounted is not None:
        text += f"\0{source_mounted}"
    return zlib.crc32(content_hash, zlib.crc32(text.encode()))


def is_whole(picture: bytes, crc: int | None, pictured: int) -> bool:
    """Say whether a picture is the one that was kept, as far as its checksum can tell."""
    return zlib.crc32(picture) == crc or (crc is None and pictured == WITHOUT_SUM)


def read_rows(connection: sqlite3.Connection, where: str, parameters: Sequence[Any]) -> list[PointRow]:
    """Return the rows of `points AS p` that the end of an SQL statement selects, each compared with its checksum.

    Raises LibraryInvalid where one is not what was written.
    """
    try:
        found = connection.execute(
            f"SELECT {COLUMNS}, crc32 FROM points AS p WHERE {where}",  # noqa: S608 - values are bound
            parameters,
        ).fetchall()
        rows = []
        for *columns, crc in found:
            if checksum(*columns) != crc:
                raise damaged(columns[0])
            rows.append(PointRow._make(columns))
    except (sqlite3.OperationalError, TypeError) as error:
        # text that is no UTF-8 any more has no code of SQLite's; a column of another type is no bytes for the checksum
        if getattr(error, "sqlite_errorcode", None) is not None:
            raise
        raise LibraryInvalid(f"a point is damaged ({error}); restore a backup.") from error
    return rows


def bytes_of(column: str) -> str:
    """Return the SQL that reads a column's bytes as bytes: a flipped bit makes a blob a text, which may not even be one, or NULL."""
    return f"ifnull(CAST({column} AS BLOB), x'')"


def damaged(row: object) -> LibraryInvalid:
    """Return the error for a row that is not what was written."""
    return LibraryInvalid(f"the point of row {row} is damaged; restore a backup.")
