"""How many labelled points each class has among those that a condition selects, kept from one vote to the next."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from sqlite3 import Connection

from service.library.snapshot import Snapshot
from service.store.filters import LABELLED, Filter, Ids
from service.store.records import Records

KEPT_SIZES = 8  # conditions; a program classifies with one or two


class ClassSizes:
    """The class sizes of one collection. Counting a million labels takes some 0.1 s, so a count serves until the next write."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._known: OrderedDict[Filter | None, tuple[int, Mapping[str, int]]] = OrderedDict()
        self._lock = threading.Lock()

    def among(self, now: Snapshot, condition: Filter | None) -> Mapping[str, int]:
        """Return the sizes at a moment, by label, of the points that a condition selects; None selects all."""
        with self._lock:
            version, sizes = self._known.get(condition, (-1, {}))
        if version == now.version:
            return sizes
        sizes = self._count(now.connection, condition)
        with self._lock:
            self._known[condition] = (now.version, sizes)
            self._known.move_to_end(condition)
            while len(self._known) > KEPT_SIZES:
                self._known.popitem(last=False)
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
