"""The inverted index of filters: every value that a filter may ask for, and the rows that a condition selects.

`fields (key, value, row)` says that the point of a row has this value at the top of its payload under this key, or in a list
there. It is made from the payloads by SQLite alone, by the same statement for a put and for a library of an older version.
`field_names` numbers the keys of each collection, so that a long key with a long list does not fill the disk.

A value is kept so that SQLite's own comparison is the filter's: 1 equals 1.0 and no text. Booleans, which SQLite does not have,
are blobs of one byte, and an empty blob says that there is a value that no filter can match: an object, a list, a text beyond
MAX_TEXT_CHARS. Within a key SQLite orders numbers first, then texts, then blobs.

A field inside of an object has no entry: the index would grow with every name in every payload. It says which points have an object
under the first name of the way, and the payloads of these are read. An instant is a text among others: the days between which it is
written are found in the index, and each text there is read.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator

import numpy as np

from service.points import Rows
from service.store.filters import MAX_TEXT_CHARS, Condition, Exists, Filter, Ids, Match, Period, Range
from service.store.instants import texts_between
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

# The values under a key with dots, `inside (value, row)`, of the points of a list of rows, but for those with a field at the top that
# has the whole key for its name. `way` walks down: `object` is what it has come to, and `rest` the part of the key still to go.
_INSIDE = f"""
WITH RECURSIVE way(row, object, rest) AS (
  SELECT p.row, p.payload, ? FROM json_each(?) AS r CROSS JOIN points AS p ON p.row = r.value
    WHERE NOT EXISTS (SELECT 1 FROM json_each(p.payload) AS f WHERE f.key = ?)
  UNION ALL
  SELECT w.row, f.value, iif(typeof(f.key) = 'text', substr(w.rest, length(f.key) + 2), w.rest)
    FROM way AS w CROSS JOIN json_each(w.object) AS f
    WHERE (typeof(f.key) = 'text' AND f.type IN ('object', 'array') AND substr(w.rest, 1, length(f.key) + 1) = f.key || '.')
      OR (typeof(f.key) = 'integer' AND f.type = 'object')
), last AS (
  SELECT w.row, f.type, f.atom, f.value FROM way AS w CROSS JOIN json_each(w.object) AS f ON f.key = w.rest
    WHERE typeof(f.key) = 'text' AND f.type <> 'null'
), inside(value, row) AS (
  SELECT {_kept("f")}, f.row FROM last AS f UNION ALL
  SELECT {_kept("i")}, f.row FROM last AS f CROSS JOIN json_each(f.value) AS i WHERE f.type = 'array' AND i.type <> 'null'
)"""  # noqa: S608 - our own names


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
            case Period("label"):
                return self._points(*self._within(condition, "label"))
            case Period(key):
                return self._having(key, *self._within(condition, "value"))
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

    def _within(self, period: Period, column: str) -> tuple[str, str, str]:
        """Return the SQL and the parameters by which a column's texts are instants of a period."""

        def within(value: object) -> bool:  # which of the conditions SQLite tries first is its own choice
            return isinstance(value, str) and period.holds(value)

        self._connection.create_function("within_period", 1, within, deterministic=True)
        return f"AND {column} >= ? AND {column} < ? AND within_period({column})", *texts_between(*period.ends)

    def _having(self, key: str, where: str, *parameters: str) -> Rows:
        number = "(SELECT key FROM field_names WHERE collection = ? AND name = ?)"
        rows = self._rows(f"FROM fields WHERE key = {number} {where}", self._collection, key, *parameters)
        if "." not in key:
            return rows
        return _ascending(np.concatenate([rows, *self._having_inside(key, where, *parameters)]))

    def _having_inside(self, key: str, where: str, *parameters: str) -> Iterator[Rows]:
        """Yield the rows, some at a time, whose payload has the field inside of an object under a name that the key begins with."""
        first_names = json.dumps([key[: dot.start()] for dot in re.finditer(r"\.", key)])
        numbers = "SELECT key FROM field_names WHERE collection = ? AND name IN (SELECT value FROM json_each(?))"
        holders = self._rows(f"FROM fields WHERE key IN ({numbers}) AND value = x''", self._collection, first_names)
        for start in range(0, len(holders), AMONG_ROWS):
            some = json.dumps(holders[start : start + AMONG_ROWS].tolist())
            read_rows(self._connection, "row IN (SELECT value FROM json_each(?))", (some,))  # for their checksums
            selecting = f"{_INSIDE} SELECT group_concat(row) FROM inside WHERE true {where}"  # noqa: S608 - values are bound
            yield _listed(self._connection.execute(selecting, (key, some, key, *parameters)))

    def _rows(self, source: str, *parameters: str | int) -> Rows:
        return _listed(
            self._connection.execute(
                f"{self._before} SELECT group_concat(row) {source}",
                (*self._parameters, *parameters),
            )
        )


def _listed(found: sqlite3.Cursor) -> Rows:
    """Return the rows that a statement answers as one text: read in half the time that a Python object for each row takes."""
    text = found.fetchone()[0]
    return _ascending(np.empty(0, np.int64) if text is None else np.fromstring(text, np.int64, sep=","))


def _both(one: Rows, other: Rows) -> Rows:
    return one[np.isin(one, other, assume_unique=True)]


def _ascending(rows: Rows) -> Rows:
    """Return rows in their order, each once: a list may match with several items. (numpy's `unique` takes 5 times as long.)"""
    if (rows[1:] > rows[:-1]).all():
        return rows  # as they come from the values of one field
    rows = np.sort(rows)
    return rows[np.append(True, rows[1:] != rows[:-1])]
