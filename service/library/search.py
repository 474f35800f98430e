"""Search: the index finds rows, the records say what they are, both of the same commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from service.concurrency.flat_combining import FlatCombiner
from service.index.vector_index import BATCH_QUERIES, NO_ROW, Rows, VectorIndex, View
from service.library.filter_cache import FilterCache
from service.library.snapshot import Snapshot
from service.points import Hit, Vector
from service.store.database import Database
from service.store.filters import Condition
from service.store.records import Change, Records, StoredPoint


@dataclass(frozen=True)
class SearchOptions:
    """The options of a search: what it is confined to, and what its hits carry.

    `exclude` names, for each query, an id to leave out; `exact` asks to compare with every vector where the index would answer from
    a part of them.
    """

    condition: Condition | None = None
    score_threshold: float | None = None
    with_payload: bool = True
    with_vector: bool = False
    exclude: Sequence[str | None] | None = None
    exact: bool = False


@dataclass(frozen=True)
class _Asked:
    """Queries [Q, D] and what is wanted for each."""

    queries: Vector
    wanted: int
    condition: Condition | None
    exact: bool

    @property
    def kind(self) -> str:
        """The key of queries that may be searched for together: they have the same."""
        return (
            f"{self.wanted} {self.exact} {self.condition!r}"  # as text, for 1 and True are equal and differ in a filter
        )


@dataclass(frozen=True)
class _Found:
    """Scores and rows [Q, k] of the nearest, the points of these rows (and of others), and the view they were found in."""

    view: View
    points: dict[int, StoredPoint]
    scores: Vector
    rows: Rows


class Search:
    """The search of one collection, and the one place that lets its index follow its records."""

    def __init__(self, database: Database, records: Records, index: VectorIndex, grown: Callable[[], None]) -> None:
        """Start with an index that holds what the records do; `grown` is called after each write."""
        self._database = database
        self._records = records
        self._index = index
        self._version = 0  # counts the writes that reached this collection; moves only while no aligned reader looks
        self._filter_cache = FilterCache(records)
        self._grown = grown
        self._combiner = FlatCombiner(self._find, index.view().threads)

    def follow(self, change: Change) -> None:
        """Bring the index to a commit. For the `then` of a write only."""
        self._version += 1
        self._index.remove(change.removed)
        self._index.add(change.added, change.vectors)
        self._filter_cache.note(self._version, np.concatenate([change.removed, change.amended, change.added]))
        self._grown()

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Yield the collection as one commit left it."""
        with self._database.aligned(lambda: (self._version, self._index.view())) as (connection, (version, view)):
            yield Snapshot(connection, view, version)

    def nearest(self, queries: Vector, limit: int, options: SearchOptions) -> list[list[Hit]]:
        """Return up to `limit` hits for each of the unit vectors [Q, D], best first."""
        # one more than wanted, where one may be left out
        asked = _Asked(queries, limit + (options.exclude is not None), options.condition, options.exact)
        found = self._combiner.ask(asked) if len(queries) < BATCH_QUERIES else self._find([asked])[0]
        left_out = options.exclude or [None] * len(queries)
        return [
            self._hits(found.view, found.points, *query, options, limit)
            for query in zip(found.scores.tolist(), found.rows.tolist(), left_out, strict=True)
        ]

    def _find(self, asked: Sequence[_Asked]) -> list[_Found]:
        """Search for several in one snapshot; those that want the same are searched for together."""
        groups: dict[str, list[int]] = {}
        for i, each in enumerate(asked):
            groups.setdefault(each.kind, []).append(i)
        found: dict[int, tuple[Vector, Rows]] = {}
        with self.snapshot() as now:
            for indices in groups.values():
                first = asked[indices[0]]
                allowed = None if first.condition is None else self._filter_cache.select(now, first.condition)
                queries = np.concatenate([asked[i].queries for i in indices])
                scores, rows = now.view.search(queries, first.wanted, allowed, first.exact)
                ends = np.cumsum([len(asked[i].queries) for i in indices])[:-1]
                found |= zip(indices, zip(np.split(scores, ends), np.split(rows, ends), strict=True), strict=True)
            points = self._records.by_rows(now.connection, np.concatenate([rows.ravel() for _, rows in found.values()]))
        return [_Found(now.view, points, *found[i]) for i in range(len(asked))]

    @staticmethod
    def _hits(
        view: View,
        points: dict[int, StoredPoint],
        scores: list[float],
        rows: list[int],
        without: str | None,
        options: SearchOptions,
        limit: int,
    ) -> list[Hit]:
        least = -np.inf if options.score_threshold is None else options.score_threshold
        found = [(s, points[r]) for s, r in zip(scores, rows, strict=True) if r != NO_ROW and s >= least]
        found = [(s, p) for s, p in found if p.id != without][:limit]
        vectors = vectors_of(view, [p.row for _, p in found]) if options.with_vector else {}
        return [
            Hit(p.id, s, p.label, p.payload if options.with_payload else None, vectors.get(p.row)) for s, p in found
        ]


def vectors_of(view: View, rows: Sequence[int]) -> dict[int, Vector]:
    """Return the vectors [D] of rows that are in the view."""
    ascending = np.unique(np.array(rows, np.int64))
    return dict(zip(ascending.tolist(), view.vectors(ascending), strict=True))
