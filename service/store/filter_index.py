"""The inverted index of filters: every value that a filter may ask for, and the rows that a condition selects.

`fields (key, value, row)` says that the point of a row has this value at the top of its payload under this key, or in a list
there. It is made from the payloads by SQLite alone, by the same statement for a put and for a library of an older version.
`field_names` numbers the keys of each collection, so that a long key with a long list does not fill the disk.

A value is kept so that SQLite's own comparison is the filter's: 1 equals 1.0 and no text. Booleans, which SQLite does not have,
are blobs of one byte, and an empty blob says that there is a value that no filter can match: an object, a list, a text beyond
MAX_TEXT_CHARS. Within a key SQLite orders numbers first, then texts, then blobs.
"""

from __future__ import annotations

import json
import sqlite3

import numpy as np

from service.points import Rows
from service.store.filters import MAX_TEXT_CHARS, Condition, Exists, Filter, Ids, Match, Range
from service.store.point_rows import read_rows

AMONG_ROWS = 4096  # up to here reading the payloads of the rows beats reading the index whatever it holds (some 10 ms)


def _kept(item: str) -> str:
    """Return the SQL of a value in the form of the index; `item` is the name of a row of json_each."""
    return (
        f"CASE {item}.type WHEN 'true' THEN x'01' WHEN 'false' THEN x'00' WHEN 'integer' THEN {item}.atom"
        f" WHEN 'real' THEN {item}.atom WHEN 'text' THEN iif(length({item}.atom) <= {MAX_TEXT_CHARS}, {item}.atom, x'')"
        " ELSE x'' END"
    )


# What is in force on disk; whoever changes it adds a migration that fills `fields` anew.
_FIELDS = "FROM points AS p CROSS JOIN json_each(p.payload) AS f"
_NUMBERED = f"{_FIELDS} CROSS JOIN field_names AS n ON n.collection = p.collection AND n.name = f.key"
_ENTRIES = (
    f"SELECT n.key AS key, {_kept('f')} AS value, p.row AS row {_NUMBERED} WHERE f.type <> 'null' UNION ALL"
    f" SELECT n.key, {_kept('i')}, p.row {_NUMBERED} CROSS JOIN json_each(f.value) AS i"
    " WHERE f.type = 'array' AND i.type <> 'null'"
)
FILL = (
    f"INSERT OR IGNORE INTO field_names (collection, name) SELECT p.collection, f.key {_FIELDS}",
    f"INSERT OR IGNORE INTO fields (key, value, row) {_ENTRIES}",
)
_AMONG_WANTED = f"AND value <> x'' AND value IN (SELECT {_kept('w')} FROM json_each(?) AS w)"  # noqa: S608 - our own names
# Put before one of these statements, it narrows `points` to the rows of its parameter, a JSON list.
_OF_ROWS = "WITH points AS (SELECT p.* FROM json_each(?) AS r CROSS JOIN main.points AS p ON p.row = r.value)"


def write_fields(connection: sqlite3.Connection, rows: list[int]) -> None:
    """Index the payloads of these rows."""
    for statement in FILL if rows else ():
        connection.execute(f"{_OF_ROWS} {statement}", (json.dumps(rows),))


def erase_fields(connection: sqlite3.Connection, rows: list[int]) -> None:
    """Take these rows out of the index; for the time before their payloads go or change."""
    if rows:
        entries = connection.execute(f"{_OF_ROWS} {_ENTRIES}", (json.dumps(rows),)).fetchall()
        _delete(connection, entries)


def clear_fields(connection: sqlite3.Connection, limit: int) -> bool:
    """Delete up to `limit` fields of collections that are gone; return whether there may be more."""
    found = connection.execute(
        "SELECT key FROM field_names WHERE collection NOT IN (SELECT collection FROM collections) LIMIT 1"
    ).fetchone()
    if found is None:
        return False
    entries = connection.execute("SELECT key, value, row FROM fields WHERE key = ? LIMIT ?", (*found, limit)).fetchall()
    _delete(connection, entries)
    if len(entries) < limit:
        connection.execute("DELETE FROM field_names WHERE key = ?", found)
    return True


def _delete(connection: sqlite3.Connection, entries: list[tuple[int, str | int | float | bytes, int]]) -> None:
    # one by one: given a list of them, SQLite looks through all values of their keys
    connection.executemany("DELETE FROM fields WHERE key = ? AND value = ? AND row = ?", entries)


def count_fields(connection: sqlite3.Connection, rows: list[int]) -> tuple[int, int]:
    """Return how many values the payloads of these rows have for the index, and how many of these are in it."""
    wanted, there = connection.execute(
        f"{_OF_ROWS} SELECT count(*), count(f.row) FROM (SELECT DISTINCT key, value, row FROM ({_ENTRIES})) AS e"  # noqa: S608
        " LEFT JOIN fields AS f ON f.key = e.key AND f.value = e.value AND f.row = e.row",
        (json.dumps(rows),),
    ).fetchone()
    return wanted, there


def select_rows(
    connection: sqlite3.Connection, collection: int, condition: Condition, among: Rows | None = None
) -> Rows:
    """Return the rows of a collection's points that a condition selects, ascending.

    `among` confines the answer to these rows (ascending), and the work to them where they are few. Raises LibraryInvalid where one of
    these is damaged.
    """
    if among is None or len(among) > AMONG_ROWS:
        rows = _Selection(connection, collection).rows(condition)
        return rows if among is None else _both(among, rows)
    wanted = json.dumps(among.tolist())
    read_rows(connection, "row IN (SELECT value FROM json_each(?))", (wanted,))  # for their checksums
    return _Selection(connection, collection, wanted).rows(condition)


class _Selection:
    """Selects from a collection, or from those of its rows that are in a JSON list."""

    def __init__(self, connection: sqlite3.Connection, collection: int, among: str | None = None) -> None:
        self._connection = connection
        self._collection = collection
        self._before = "" if among is None else f"{_OF_ROWS}, fields AS ({_ENTRIES})"
        self._parameters: list[str] = [] if among is None else [among]

    def rows(self, condition: Condition) -> Rows:
        """Return the rows that a condition selects, ascending."""
        match condition:
            case Filter(must, should, must_not):
                return self._filtered(must, should, must_not)
            case Ids(ids):
                return self._points("AND id IN (SELECT value FROM json_each(?))", json.dumps(ids))
            case Exists("label"):
                return self._points("AND label IS NOT NULL")
            case Match("label", values):
                texts = [value for value in values if isinstance(value, str)]
                return self._points("AND label IN (SELECT value FROM json_each(?))", json.dumps(texts))
            case Range("label"):
                return np.empty(0, np.int64)  # a label is text
            case Exists(key):
                return self._having(key, "")
            case Match(key, values):
                # as JSON, and so read by the same reader as the payload was, also beyond 64 bits
                return self._having(key, _AMONG_WANTED, json.dumps(values))
            case Range(key, bounds):
                tests = [f"AND value {sign} json_extract(?, '$')" for sign, _ in bounds]
                if not any(sign.startswith("<") for sign, _ in bounds):
                    tests.append("AND value < ''")  # without an end, texts and blobs would follow the numbers
                return self._having(key, " ".join(tests), *(json.dumps(bound) for _, bound in bounds))

    def _filtered(
        self, must: tuple[Condition, ...], should: tuple[Condition, ...], must_not: tuple[Condition, ...]
    ) -> Rows:
        kept: Rows | None = None
        for condition in must:
            rows = self.rows(condition)
            kept = rows if kept is None else _both(kept, rows)
            if not len(kept):
                return kept
        if should:
            either = _ascending(np.concatenate([self.rows(condition) for condition in should]))
            kept = either if kept is None else _both(kept, either)
        if kept is None:
            kept = self._points("")
        for condition in must_not:
            kept = kept[np.isin(kept, self.rows(condition), assume_unique=True, invert=True)]
        return kept

    def _points(self, where: str, *parameters: str) -> Rows:
        return self._rows(f"FROM points WHERE collection = ? {where}", self._collection, *parameters)

    def _having(self, key: str, where: str, *parameters: str) -> Rows:
        number = "(SELECT key FROM field_names WHERE collection = ? AND name = ?)"
        return self._rows(f"FROM fields WHERE key = {number} {where}", self._collection, key, *parameters)

    def _rows(self, source: str, *parameters: str | int) -> Rows:
        # one text with all of them is read in half the time that a Python object for each row takes
        found = self._connection.execute(
            f"{self._before} SELECT group_concat(row) {source}",
            (*self._parameters, *parameters),
        ).fetchone()[0]
        rows = np.empty(0, np.int64) if found is None else np.fromstring(found, np.int64, sep=",")
        return _ascending(rows)


def _both(one: Rows, other: Rows) -> Rows:
    return one[np.isin(one, other, assume_unique=True)]


def _ascending(rows: Rows) -> Rows:
    """Return rows in their order, each once: a list may match with several items. (numpy's `unique` takes 5 times as long.)"""
    if (rows[1:] > rows[:-1]).all():
        return rows  # as they come from the values of one field
    rows = np.sort(rows)
    return rows[np.append(True, rows[1:] != rows[:-1])]
