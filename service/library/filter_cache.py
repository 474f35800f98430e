"""The cache of filters: the rows that each selects, kept between searches and brought up to date with what was written.

A filter that half of a million points pass takes a fifth of a second to answer from SQLite. People and programs send the same
filter again and again while points are written, so a few answers are kept, and only the rows that changed are asked about.
"""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

from service.index.row_set import RowSet
from service.library.snapshot import Snapshot
from service.library.versioned_cache import VersionedCache
from service.points import Rows
from service.store.filters import Condition
from service.store.records import Records

KEPT_SELECTIONS = 8  # a browsing user repeats one or two; a million rows take 8 MB
KEPT_CHANGES = 50_000  # changed rows that are remembered; to ask about more takes as long as to begin anew


class FilterCache:
    """The row sets of recent filters of one collection."""

    def __init__(self, records: Records) -> None:
        self._records = records
        # by text, for 1 and True are equal, and differ in a filter
        self._selections: VersionedCache[str, RowSet] = VersionedCache(KEPT_SELECTIONS)
        self._changes: deque[tuple[int, Rows]] = deque()  # (version, rows that came, went or changed with it)
        self._changed = 0  # rows in _changes
        self._since = 0  # changes are remembered of the versions after this one
        self._lock = threading.Lock()  # guards the three above

    def note(self, version: int, rows: Rows) -> None:
        """Remember that these rows came, went or changed with a version. For the writer thread, version by version."""
        with self._lock:
            self._changes.append((version, rows))
            self._changed += len(rows)
            while self._changed > KEPT_CHANGES:
                self._since, forgotten = self._changes.popleft()
                self._changed -= len(forgotten)

    def select(self, now: Snapshot, condition: Condition) -> RowSet:
        """Return the rows that a condition selects in a snapshot."""
        key = repr(condition)
        known = self._selections.get(key)
        changes = None if known is None else self._changes_between(known[0], now.version)
        if known is None or changes is None:
            selected = RowSet(self._records.matching(now.connection, condition))
        else:
            selected = self._brought_up(now, condition, known[1], changes)
        self._selections.put(key, now.version, selected)
        return selected

    def _changes_between(self, version: int, later: int) -> list[Rows] | None:
        """Return the rows that changed after one version up to another; None where some are forgotten, or it is the older one."""
        with self._lock:
            if not self._since <= version <= later:
                return None
            return [rows for number, rows in self._changes if version < number <= later]

    def _brought_up(self, now: Snapshot, condition: Condition, known: RowSet, changes: list[Rows]) -> RowSet:
        if not any(len(rows) for rows in changes):
            return known
        rows = np.unique(np.concatenate(changes))
        return known.changed(rows, self._records.matching_among(now.connection, condition, rows))
