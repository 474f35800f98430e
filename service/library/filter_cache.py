"""What filters select, kept from one search to the next and brought up to date with what was written in between.

A filter that half of a million points pass takes a fifth of a second to answer from SQLite. People and programs send the same
filter again and again while points are written, so a few answers are kept, and only the rows that changed are asked about.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque

import numpy as np

from service.index.row_set import RowSet
from service.library.snapshot import Snapshot
from service.points import Rows
from service.store.filters import Condition
from service.store.records import Records

KEPT_SELECTIONS = 8  # a browsing user repeats one or two; a million rows take 8 MB
KEPT_CHANGES = 50_000  # changed rows that are remembered; to ask about more takes as long as to begin anew


class FilterCache:
    """The row sets of recent filters of one collection."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._known: OrderedDict[str, tuple[int, RowSet]] = OrderedDict()
        self._changes: deque[tuple[int, Rows]] = deque()  # (version, rows that came, went or changed with it)
        self._changed = 0  # rows in _changes
        self._since = 0  # changes are remembered of the versions after this one
        self._lock = threading.Lock()

    def note(self, version: int, rows: Rows) -> None:
        """Remember that these rows came, went or changed with a version. For the writer thread, version by version."""
        with self._lock:
            self._changes.append((version, rows))
            self._changed += len(rows)
            while self._changed > KEPT_CHANGES:
                self._since, forgotten = self._changes.popleft()
                self._changed -= len(forgotten)

    def select(self, now: Snapshot, condition: Condition) -> RowSet:
        """Return the rows that a condition selects at a moment."""
        key = repr(condition)  # for 1 and True are equal, and differ in a filter
        with self._lock:
            version, known = self._known.get(key, (-1, None))
            changes = None
            if known is not None and self._since <= version <= now.version:
                changes = [rows for number, rows in self._changes if version < number <= now.version]
        if known is not None and changes is not None:
            selected = self._brought_up(now, condition, known, changes)
        else:
            selected = RowSet(self._records.matching(now.connection, condition))
        with self._lock:
            if self._known.get(key, (-1, None))[0] <= now.version:
                self._known[key] = (now.version, selected)
            self._known.move_to_end(key)
            while len(self._known) > KEPT_SELECTIONS:
                self._known.popitem(last=False)
        return selected

    def _brought_up(self, now: Snapshot, condition: Condition, known: RowSet, changes: list[Rows]) -> RowSet:
        if not any(len(rows) for rows in changes):
            return known
        rows = np.unique(np.concatenate(changes))
        return known.changed(rows, self._records.matching_among(now.connection, condition, rows))
