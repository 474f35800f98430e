"""One collection: records, index and clusterings as one thing. Its invariants are numbered in `service/library/library.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from sqlite3 import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from backbone.vote import NEIGHBOURS
from service.analysis.classification import classify
from service.analysis.clusterings import Clusterings
from service.analysis.grouping import Recipe
from service.analysis.point_set import UNLABELLED, PointSet
from service.analysis.progress import Progress
from service.analysis.voting import Voting
from service.errors import CollectionEmpty, CollectionMissing, DuplicateId, FilterInvalid
from service.index.vector_index import Rows, View
from service.library.builder import Builder, IndexedCollection
from service.library.class_sizes import ClassSizes
from service.library.search import Search, SearchOptions, vectors_of
from service.points import (
    UNSET,
    Classification,
    Cluster,
    ClusterHit,
    Clustering,
    ClusterOutlier,
    CollectionStats,
    Hit,
    Keep,
    NewPoint,
    Outcome,
    Point,
    Stored,
    Unset,
    check_id,
    check_label,
    check_source,
    unit_rows,
)
from service.store.cursors import read_cursor, write_cursor
from service.store.database import Database
from service.store.filters import LABELLED, Condition, Filter, Ids
from service.store.payloads import encode_payload
from service.store.records import Change, Record, Records, StoredPoint
from service.store.tautologies import is_tautology

EVERYTHING = Filter()
NO_ROWS = np.empty(0, np.int64)
_PLAIN = SearchOptions()
_AS_DINO = Voting()
Vectors = npt.ArrayLike | Sequence[npt.ArrayLike]  # [Q, D]


class Collection:
    """A named set of points whose vectors come from one model. Every method may be called from any thread.

    Every method raises CollectionMissing once the collection has been dropped, and StorageFailed where the disk fails;
    those that write also raise StorageFull.
    """

    def __init__(self, database: Database, builder: Builder, indexed: IndexedCollection, name: str, keep: Keep) -> None:
        """Start with the index of what is in the records, which the builder keeps fit."""
        self.name = name
        self.keep: Keep = keep
        self.number = indexed.identity.collection
        self.fingerprint = indexed.identity.fingerprint
        self.dimension = indexed.identity.dimension
        self.indexed = indexed
        self._database = database
        self._records = Records(self.number, self.dimension)
        self._search = Search(database, self._records, indexed.index, lambda: builder.consider(indexed))
        self._clusterings = Clusterings(database, self._records)
        self._class_sizes = ClassSizes(self._records)

    def put(self, points: Sequence[NewPoint], replace: bool = False) -> list[Outcome]:
        """Store points durably, then make them searchable; return an outcome for each, in order.

        Conflicts are outcomes. Raises, with nothing stored: DuplicateId, InvalidId, InvalidLabel, InvalidPayload,
        InvalidSource, InvalidVector, DimensionMismatch.
        """
        self._alive()
        records = self._checked(points)
        if not records:
            return []

        def work(connection: Connection) -> Change:
            change = self._records.put(connection, records, replace)
            self._clusterings.arrived(connection, change.added, change.vectors)
            return change

        return self._database.write(work, self._search.follow).outcomes

    def _checked(self, points: Sequence[NewPoint]) -> list[Record]:
        seen: set[str] = set()
        for point in points:
            if check_id(point.id) in seen:
                raise DuplicateId(f"the id {point.id!r} stands twice in the request; send each id once.")
            seen.add(point.id)
        given = [i for i, point in enumerate(points) if point.vector is not None]
        vectors = unit_rows([point.vector for point in points if point.vector is not None], self.dimension, given)
        by_index = dict(zip(given, vectors, strict=True))
        return [
            Record(
                id=point.id,
                content_hash=point.content_hash,
                vector=by_index.get(i),
                label=_checked_label(point.label),
                payload=_encoded_payload(point.payload),
                picture=None if self.keep == "none" else point.picture,
                source=check_source(point.source),
            )
            for i, point in enumerate(points)
        ]

    def update(
        self,
        id: str,  # noqa: A002 - the API's word
        label: str | Unset | None = UNSET,
        payload: Mapping[str, Any] | Unset | None = UNSET,
    ) -> Point:
        """Set a point's label and payload where they are given. Raises PointMissing, InvalidLabel, InvalidPayload."""
        self._alive()
        check_id(id)
        new_label, new_payload = _checked_label(label), _encoded_payload(payload)
        updated = self._database.write(
            lambda connection: self._records.update(connection, id, new_label, new_payload),
            lambda point: self._search.follow(self._change(amended=np.array([point.row]))),
        )
        return Point(updated.id, updated.label, updated.payload)

    def delete(self, ids: Sequence[str] | None = None, filter: Filter | None = None) -> int:  # noqa: A002
        """Delete the points with these ids, or those that a filter selects; return how many there were.

        Raises FilterInvalid where neither or both are given, and for a filter that can leave no point out.
        """
        self._alive()
        if (ids is None) == (filter is None):
            raise FilterInvalid("say which points to delete: either ids or a filter.")
        if filter is not None and is_tautology(filter):
            raise FilterInvalid(
                "this filter has no condition that could leave a point out; say which points to delete, or delete the collection."
            )
        condition: Condition = Ids(tuple(ids or ())) if filter is None else filter
        removed = self._database.write(
            lambda connection: self._records.delete(connection, condition),
            lambda rows: self._search.follow(self._change(removed=rows)),
        )
        return len(removed)

    def _change(self, removed: Rows = NO_ROWS, amended: Rows = NO_ROWS) -> Change:
        return Change([], removed, NO_ROWS, np.empty((0, self.dimension), np.float32), amended)

    def point(self, id: str, with_vector: bool = False) -> Point:  # noqa: A002
        """Return one point. Raises PointMissing."""
        self._alive()
        check_id(id)
        with self._search.snapshot() as now:
            return _points([self._records.point(now.connection, id)], now.view if with_vector else None)[0]

    def picture(self, id: str) -> bytes | None:  # noqa: A002
        """Return the picture kept for a point, None where none is. Raises PointMissing."""
        self._alive()
        check_id(id)
        with self._database.snapshot() as connection:
            return self._records.picture(connection, id)

    def stored(self, ids: Sequence[str] | None = None) -> dict[str, Stored]:
        """Return content hash, label and source of those of these ids that are there, or of every point."""
        self._alive()
        with self._database.snapshot() as connection:
            return self._records.stored(connection, EVERYTHING if ids is None else Ids(tuple(ids)))

    def scroll(
        self,
        limit: int,
        cursor: str | None = None,
        filter: Filter | None = None,  # noqa: A002
        with_vector: bool = False,
    ) -> tuple[list[Point], str | None]:
        """Return a page of up to `limit` points in the order of their ids, and the cursor of the next page or None.

        A point that is there from the first page to the last is listed exactly once, whatever is written meanwhile.
        Raises CursorInvalid.
        """
        self._alive()
        listing = f"points of {self.number}"
        after = "" if cursor is None else read_cursor(cursor, listing, check_id)
        with self._search.snapshot() as now:
            found = self._records.page(now.connection, filter or EVERYTHING, after, limit + 1)
            page = _points(found[:limit], now.view if with_vector else None)
        return page, write_cursor(listing, page[-1].id) if page and len(found) > limit else None

    def count(self, filter: Filter | None = None) -> int:  # noqa: A002
        """Return how many points there are, or how many a filter selects."""
        self._alive()
        with self._database.snapshot() as connection:
            return self._records.count(connection, filter or EVERYTHING)

    def stats(self) -> CollectionStats:
        """Return figures of the collection and its index."""
        self._alive()
        with self._search.snapshot() as now:
            labels = self._records.labels(now.connection)
        approximate = None if now.view.main is None else now.view.main.approximate
        return CollectionStats(
            points=len(now.view),
            index="exact" if approximate is None else approximate.effort.kind,
            measured_recall=None
            if approximate is None
            else approximate.effort.recall,  # nothing to measure in an exact one
            tail=sum(len(s) for s in now.view.tail),
            building=self.indexed.waiting,
            memory_bytes=now.view.memory_bytes,
            labels=len(labels),
            labelled=sum(labels.values()),
        )

    def point_set(self) -> PointSet:
        """Return all points as they are now, in one snapshot, for work that looks at every one of them."""
        self._alive()
        with self._search.snapshot() as now:
            by_row = self._records.labels_by_row(now.connection)
            rows = now.view.rows()
        names = tuple(sorted(set(by_row.values())))
        number = {name: i for i, name in enumerate(names)}
        labels = np.full(len(rows), UNLABELLED)
        labels[np.searchsorted(rows, list(by_row))] = [number[label] for label in by_row.values()]
        return PointSet(rows, labels, names, now.view)

    def matching(self, filter: Filter) -> Rows:  # noqa: A002
        """Return the rows of the points that a filter selects, ascending."""
        self._alive()
        with self._database.snapshot() as connection:
            return self._records.matching(connection, filter)

    def by_rows(self, rows: Rows) -> dict[int, Point]:
        """Return the points of these rows that are still there, by row."""
        self._alive()
        with self._database.snapshot() as connection:
            found = self._records.by_rows(connection, rows)
        return {row: Point(p.id, p.label, p.payload) for row, p in found.items()}

    def query(self, vectors: Vectors, limit: int, options: SearchOptions = _PLAIN) -> list[list[Hit]]:
        """Return the nearest points to each of the query vectors [Q, D], best first; all queries see the same snapshot.

        `limit` is capped at what is there. Raises InvalidVector, DimensionMismatch.
        """
        self._alive()
        return self._search.nearest(unit_rows(vectors, self.dimension), limit, options)

    def classify(
        self,
        vectors: Vectors,
        k: int = NEIGHBOURS,
        voting: Voting = _AS_DINO,
        *,
        reject_below: float | None = None,
        filter: Filter | None = None,  # noqa: A002
        exclude: Sequence[str | None] | None = None,
        exact: bool = False,
    ) -> list[Classification]:
        """Return the vote of each query's `k` nearest labelled points (capped at what is there).

        `exclude` and `exact` are those of `SearchOptions`.
        Raises CollectionEmpty where no labelled point (of those that the filter selects) is there, InvalidVector,
        DimensionMismatch.
        """
        self._alive()
        condition = Filter(must=(LABELLED, filter) if filter else (LABELLED,))
        options = SearchOptions(condition, with_payload=False, exclude=exclude, exact=exact)
        hits = self._search.nearest(unit_rows(vectors, self.dimension), k, options)
        if not all(hits):
            raise CollectionEmpty("no labelled point is there to vote; put points with labels first.")
        sizes = None
        if voting.balance == "inverse":
            with self._search.snapshot() as now:
                sizes = [self._class_sizes.without(now, filter, id_) for id_ in exclude or [None] * len(hits)]
        return classify(hits, voting, reject_below, sizes)

    def cluster(self, recipe: Recipe, progress: Progress) -> str:
        """Group the points; return the id of the clustering. Raises Invalid, CollectionEmpty, and what `progress` raises."""
        self._alive()
        return self._clusterings.create(self.point_set(), recipe, progress)

    def clusterings(self) -> list[Clustering]:
        """Return the finished clusterings, oldest first."""
        self._alive()
        return self._clusterings.all()

    def clusters(self, clustering: str) -> list[Cluster]:
        """Return the clusters of a clustering by number: when it was made, the largest first. Raises ClusteringMissing."""
        self._alive()
        return self._clusterings.clusters(clustering)

    def cluster_points(
        self, clustering: str, cluster: int, limit: int, cursor: str | None = None
    ) -> tuple[list[Point], str | None]:
        """Return a page of a cluster's members that are still there, nearest to the centroid first, and a cursor.

        Raises ClusteringMissing, ClusterMissing, CursorInvalid.
        """
        self._alive()
        return self._clusterings.members(clustering, cluster, limit, cursor)

    def cluster_outliers(
        self, clustering: str, cluster: int | None, limit: int, cursor: str | None = None
    ) -> tuple[list[ClusterOutlier], str | None]:
        """Return a page of the points (of one cluster) that are farthest from the nearest centroid, and a cursor.

        Of a clustering that knows noise, and where no cluster is named, these are the noise. Raises ClusteringMissing,
        ClusterMissing, CursorInvalid.
        """
        self._alive()
        return self._clusterings.outliers(clustering, cluster, limit, cursor)

    def delete_clustering(self, clustering: str) -> None:
        """Delete a clustering, and nothing of its points. Raises ClusteringMissing."""
        self._alive()
        self._clusterings.delete(clustering)

    def rename_cluster(self, clustering: str, cluster: int, name: str | None) -> Cluster:
        """Name a cluster, under the rule of labels. Raises ClusteringMissing, ClusterMissing, InvalidLabel."""
        self._alive()
        return self._clusterings.rename(clustering, cluster, check_label(name))

    def query_clusters(self, clustering: str, vector: npt.ArrayLike, limit: int) -> list[ClusterHit]:
        """Return the clusters whose centroids are nearest to a vector [D], best first. Raises ClusteringMissing."""
        self._alive()
        return self._clusterings.nearest(clustering, unit_rows([vector], self.dimension), limit)

    def _alive(self) -> None:
        if self.indexed.dropped:
            raise CollectionMissing(f"the collection {self.name} has been deleted.")


def _checked_label(label: str | Unset | None) -> str | Unset | None:
    return UNSET if isinstance(label, Unset) else check_label(label)


def _encoded_payload(payload: Mapping[str, Any] | Unset | None) -> str | Unset | None:
    return UNSET if isinstance(payload, Unset) else encode_payload(payload)


def _points(found: Sequence[StoredPoint], view: View | None) -> list[Point]:
    vectors = {} if view is None else vectors_of(view, [p.row for p in found])
    return [Point(p.id, p.label, p.payload, vectors.get(p.row)) for p in found]
