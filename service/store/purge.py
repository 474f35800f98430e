"""The purge of dropped collections and interrupted clusterings: what they leave behind goes in steps between other writes."""

from __future__ import annotations

import sqlite3

import numpy as np

from service.errors import ServiceError
from service.store.database import Database
from service.store.filter_index import clear_fields
from service.store.records import clear_rows

STEP_ROWS = 2_000  # some 10 ms of the writer: nobody waits long behind a step
STEP_FIELDS = 5_000  # the same


def start_purge(database: Database) -> None:
    """Begin to delete what belongs to no collection; steps follow one another through the writer's queue."""

    def follow(more: bool) -> None:
        if more:
            start_purge(database)

    try:
        database.write_later(_step, follow)
    except ServiceError:
        return  # closing: the next start begins again


def _step(connection: sqlite3.Connection) -> bool:
    """Delete some of it; return whether there may be more."""
    connection.execute("DELETE FROM clusterings WHERE collection NOT IN (SELECT collection FROM collections)")
    for table in ("clusters", "tallies"):
        connection.execute(f"DELETE FROM {table} WHERE clustering NOT IN (SELECT clustering FROM clusterings)")  # noqa: S608
    fields = clear_fields(connection, STEP_FIELDS)
    collection = _orphan(connection, "points", "collection", "collections")
    if collection is not None:
        found = connection.execute("SELECT row FROM points WHERE collection = ? LIMIT ?", (collection, STEP_ROWS))
        clear_rows(connection, np.array(sorted(row for (row,) in found), np.int64))
    clustering = _orphan(connection, "members", "clustering", "clusterings")
    if clustering is not None:
        connection.execute(
            "DELETE FROM members WHERE (clustering, cluster, distance, row) IN (SELECT clustering, cluster, distance,"
            " row FROM members WHERE clustering = ? LIMIT ?)",
            (clustering, STEP_ROWS),
        )
    return fields or collection is not None or clustering is not None


def _orphan(connection: sqlite3.Connection, table: str, number: str, owners: str) -> int | None:
    """Return a number in `table` that no row of `owners` has. It leaps along the index from number to number."""
    found = connection.execute(
        f"WITH RECURSIVE present (n) AS (SELECT min({number}) FROM {table} UNION ALL"  # noqa: S608 - our own names
        f" SELECT (SELECT min({number}) FROM {table} WHERE {number} > n) FROM present WHERE n IS NOT NULL)"
        f" SELECT n FROM present WHERE n IS NOT NULL AND n NOT IN (SELECT {number} FROM {owners}) LIMIT 1"
    ).fetchone()
    return None if found is None else int(found[0])
