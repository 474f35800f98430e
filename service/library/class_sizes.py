"""The class sizes of a vote: how many labelled points each class has among those that a condition selects, kept for the next vote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from sqlite3 import Connection

from service.library.snapshot import Snapshot
from service.library.versioned_cache import VersionedCache
from service.store.filters import LABELLED, Filter, Ids
from service.store.records import Records

KEPT_SIZES = 8  # conditions; a program classifies with one or two


class ClassSizes:
    """The class sizes of one collection. Counting a million labels takes some 0.1 s, so a count serves until the next write."""

    def __init__(self, records: Records) -> None:
        self._records = records
        # by text, for 1 and True are equal, and differ in a filter
        self._sizes: VersionedCache[str, Mapping[str, int]] = VersionedCache(KEPT_SIZES)

    def among(self, now: Snapshot, condition: Filter | None) -> Mapping[str, int]:
        """Return the sizes in a snapshot, by label, of the points that a condition selects; None selects all."""
        key = repr(condition)
        known = self._sizes.get(key)
        if known is not None and known[0] == now.version:
            return known[1]
        sizes = self._count(now.connection, condition)
        self._sizes.put(key, now.version, sizes)
        return sizes

    def without(self, now: Snapshot, condition: Filter | None, id_: str | None) -> Mapping[str, int]:
        """Return the same sizes as if the point with this id were not there."""
        sizes = self.among(now, condition)
        if id_ is None:
            return sizes
        selected = (Ids((id_,)), LABELLED) if condition is None else (Ids((id_,)), LABELLED, condition)
        rows = self._records.matching(now.connection, Filter(must=selected))
        labels = [point.label for point in self._records.by_rows(now.connection, rows).values()]
        return {**sizes, **{label: sizes[label] - 1 for label in labels if label is not None}}

    def _count(self, connection: Connection, condition: Filter | None) -> dict[str, int]:
        if condition is None:
            return self._records.labels(connection)
        rows = self._records.matching(connection, condition)
        found = connection.execute(
            "SELECT label, count(*) FROM points WHERE row IN (SELECT value FROM json_each(?)) AND label IS NOT NULL GROUP BY label",
            (json.dumps(rows.tolist()),),
        )
        return dict(found.fetchall())
