"""Clusterings: a collection's points in groups, found once, named by people, and kept beside the records under an id.

The centroids of a clustering stay as they were found. Its members follow the collection: a point that arrives joins the
nearest cluster in the same commit (`service/analysis/centroids.py` has the rule), one that goes leaves. With cosine and unit vectors
the member nearest to the mean is the medoid, for the sum of a member's cosines to all others is its product with the sum of
all, which points where the mean does.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import time

import numpy as np

from service.analysis.centroids import NOISE, Centroids
from service.analysis.grouping import Grouping, Recipe, group
from service.analysis.members import (
    Placement,
    admit,
    cluster_labels,
    cluster_sizes,
    farthest_first,
    insert_clusters,
    nearest_first,
    nearest_ids,
    page,
    read_centroids,
)
from service.analysis.point_set import PointSet
from service.analysis.progress import Progress, part_of
from service.errors import ClusteringMissing, ClusterMissing, CollectionEmpty, ServiceError
from service.index.sharp_cosines import sharpen
from service.points import Cluster, ClusterHit, Clustering, ClusterOutlier, Point, Rows, Vector
from service.store.database import Database
from service.store.purge import start_purge
from service.store.records import Records
from service.store.stored_vectors import vectors_of_rows

MEMBERS_PER_WRITE = 5_000  # some 50 ms of the writer; other writes come between
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


class Clusterings:
    """The clusterings of one collection."""

    def __init__(self, database: Database, records: Records) -> None:
        self._database = database
        self._records = records
        # of the finished clusterings, for the writer thread only; they never change, so an entry can only be missing
        self._centroids: dict[int, Centroids] = {}

    def create(self, point_set: PointSet, recipe: Recipe, progress: Progress) -> str:
        """Make and keep a clustering of all points; return its id. Raises Invalid, CollectionEmpty, what `progress` raises.

        It can be listed once it is whole; what was interrupted is cleared away, at the latest when the library opens.
        """
        recipe.check()
        if not len(point_set):
            raise CollectionEmpty("the collection has no points to group; put some first.")
        found = group(point_set, recipe, part_of(progress, 0.0, 0.7))
        number = self._database.write(lambda c: self._begin(c, recipe, found, len(point_set)))
        try:
            self._write_members(number, point_set.rows, found, part_of(progress, 0.7, 1.0))
            after: int | None = int(point_set.rows[-1])
            while after is not None:
                progress(1.0)
                after = self._database.write(lambda c, row=after: self._catch_up(c, number, found.centroids, row))  # type: ignore[misc]
        except BaseException:
            with contextlib.suppress(
                ServiceError
            ):  # the reason why it ended is worth more; an opening clears it as well
                self._remove(number)
            raise
        return str(number)

    def _begin(self, connection: sqlite3.Connection, recipe: Recipe, found: Grouping, points: int) -> int:
        self._records.check_exists(connection)
        cursor = connection.execute(
            "INSERT INTO clusterings (collection, method, seed, parameters, points, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            (self._records.collection, recipe.method, recipe.seed, json.dumps(found.parameters), points, time.time()),
        )
        assert cursor.lastrowid is not None
        insert_clusters(connection, cursor.lastrowid, found.centroids)
        return cursor.lastrowid

    def _write_members(self, number: int, rows: Rows, found: Grouping, progress: Progress) -> None:
        order = np.lexsort((rows, -found.similarity, found.clusters))  # as they are kept, so that pages fill up
        for start in range(0, len(order), MEMBERS_PER_WRITE):
            progress(start / len(order))
            part = order[start : start + MEMBERS_PER_WRITE]

            def work(connection: sqlite3.Connection, part: Rows = part) -> None:
                self._records.check_exists(connection)
                admit(connection, number, rows[part], found.clusters[part], found.similarity[part])

            self._database.write(work)

    def _catch_up(self, connection: sqlite3.Connection, number: int, centroids: Centroids, after: int) -> int | None:
        """Admit points that arrived meanwhile; return the last row if there may be more, else None: then all is there."""
        self._records.check_exists(connection)
        found = connection.execute(
            "SELECT row FROM points WHERE row > ? AND collection = ? ORDER BY row LIMIT ?",
            (after, self._records.collection, MEMBERS_PER_WRITE),
        )
        rows = np.fromiter((row for (row,) in found), np.int64)
        vectors = vectors_of_rows(connection, rows, self._records.dimension)
        admit(connection, number, rows, *centroids.assign(vectors))
        if len(rows) == MEMBERS_PER_WRITE:
            return int(rows[-1])
        connection.execute("UPDATE clusterings SET finished = 1 WHERE clustering = ?", (number,))
        return None

    def arrived(self, connection: sqlite3.Connection, rows: Rows, vectors: Vector) -> None:
        """Let new points [B] with unit vectors [B, D] join every finished clustering. For the writer, in the commit of the put."""
        if not len(rows):
            return
        finished = connection.execute(
            "SELECT clustering FROM clusterings WHERE collection = ? AND finished", (self._records.collection,)
        ).fetchall()
        self._centroids = {number: self._known_centroids(connection, number) for (number,) in finished}
        for number, centroids in self._centroids.items():
            admit(connection, number, rows, *centroids.assign(vectors))

    def _known_centroids(self, connection: sqlite3.Connection, number: int) -> Centroids:
        known = self._centroids.get(number)
        return read_centroids(connection, number, self._records.dimension) if known is None else known

    def all(self) -> list[Clustering]:
        """Return the finished clusterings, oldest first."""
        with self._database.snapshot() as connection:
            found = connection.execute(
                "SELECT clustering, method, (SELECT count(*) FROM clusters AS c WHERE c.clustering = g.clustering),"
                " (SELECT ifnull(sum(points), 0) FROM tallies AS t WHERE t.clustering = g.clustering AND cluster = ?),"
                " points, seed, created_at, parameters FROM clusterings AS g WHERE collection = ? AND finished"
                " ORDER BY clustering",
                (NOISE, self._records.collection),
            )
            return [
                Clustering(str(number), method, clusters, noise, points, seed, created_at, json.loads(parameters))
                for number, method, clusters, noise, points, seed, created_at, parameters in found
            ]

    def delete(self, clustering: str) -> None:
        """Delete a clustering; its members are cleared away between other writes. Raises ClusteringMissing."""
        with self._database.snapshot() as connection:
            number = self._number(connection, clustering)
        self._remove(number)

    def _remove(self, number: int) -> None:
        self._database.write(lambda c: c.execute("DELETE FROM clusterings WHERE clustering = ?", (number,)).rowcount)
        start_purge(self._database)

    def clusters(self, clustering: str) -> list[Cluster]:
        """Return the clusters of a clustering in the order of their numbers: when it was made, the largest first."""
        with self._database.snapshot() as connection:
            return self._clusters(connection, self._number(connection, clustering))

    def rename(self, clustering: str, cluster: int, name: str | None) -> Cluster:
        """Name a cluster, or take its name away."""

        def work(connection: sqlite3.Connection) -> Cluster:
            number = self._number(connection, clustering)
            _check_cluster(connection, number, cluster)
            connection.execute(
                "UPDATE clusters SET name = ? WHERE clustering = ? AND cluster = ?", (name, number, cluster)
            )
            [renamed] = self._clusters(connection, number, cluster)
            return renamed

        return self._database.write(work)

    def members(self, clustering: str, cluster: int, limit: int, cursor: str | None) -> tuple[list[Point], str | None]:
        """Return a page of members, nearest to the centroid first, and the cursor of the next page or None."""
        listing = f"members of {clustering}/{cluster} of {self._records.collection}"
        with self._database.snapshot() as connection:
            number = self._number(connection, clustering)
            _check_cluster(connection, number, cluster)
            places, following = page(
                listing, limit, cursor, lambda n, after: nearest_first(connection, number, cluster, n, after)
            )
            return [point for point, *_ in self._points(connection, places)], following

    def outliers(
        self, clustering: str, cluster: int | None, limit: int, cursor: str | None
    ) -> tuple[list[ClusterOutlier], str | None]:
        """Return a page of what fits worst, farthest from the nearest centroid first, and the cursor of the next page or None.

        That is the noise where the method knows noise, otherwise every point; or the members of one cluster.
        """
        listing = f"outliers of {clustering}/{cluster} of {self._records.collection}"
        with self._database.snapshot() as connection:
            number = self._number(connection, clustering)
            if cluster is not None:
                _check_cluster(connection, number, cluster)
            among = self._outlying(connection, number) if cluster is None else [cluster]
            places, following = page(
                listing, limit, cursor, lambda n, after: farthest_first(connection, number, among, n, after)
            )
            return [
                ClusterOutlier(point, None if its == NOISE else its, max(-1.0, 1.0 - distance))
                for point, distance, its in self._points(connection, places)
            ], following

    @staticmethod
    def _outlying(connection: sqlite3.Connection, number: int) -> list[int]:
        [method] = connection.execute("SELECT method FROM clusterings WHERE clustering = ?", (number,)).fetchone()
        if method == "hdbscan":
            return [NOISE]
        found = connection.execute("SELECT cluster FROM clusters WHERE clustering = ?", (number,))
        return [cluster for (cluster,) in found]

    def _points(self, connection: sqlite3.Connection, places: list[Placement]) -> list[tuple[Point, float, int]]:
        """Return the points at these places, with their distances and clusters."""
        rows = np.array([row for (_, row), _ in places], np.int64)
        points = self._records.by_rows(connection, rows)
        return [
            (Point(p.id, p.label, p.payload), distance, cluster)
            for (distance, row), cluster in places
            for p in [points[row]]
        ]

    def nearest(self, clustering: str, query: Vector, limit: int) -> list[ClusterHit]:
        """Return the clusters nearest to a unit vector [1, D] by their centroids, best first."""
        with self._database.snapshot() as connection:
            number = self._number(connection, clustering)
            centroids = read_centroids(connection, number, self._records.dimension).vectors
            names = dict(connection.execute("SELECT cluster, name FROM clusters WHERE clustering = ?", (number,)))
            scores = query @ centroids.T
            sharpen(scores, query, centroids, np.arange(len(centroids))[None])
            order = np.argsort(-scores[0], kind="stable")[:limit]
            return [
                ClusterHit(i, float(scores[0, i]), nearest_ids(connection, number, i), names[i]) for i in order.tolist()
            ]

    def _number(self, connection: sqlite3.Connection, clustering: str) -> int:
        number = int(clustering) if _NUMBER.fullmatch(clustering) else -1
        found = connection.execute(
            "SELECT 1 FROM clusterings WHERE clustering = ? AND collection = ? AND finished",
            (number, self._records.collection),
        ).fetchone()
        if found is None:
            raise ClusteringMissing("the collection has no clustering with this id; list them, or make one.")
        return number

    @staticmethod
    def _clusters(connection: sqlite3.Connection, number: int, only: int | None = None) -> list[Cluster]:
        found = connection.execute(
            "SELECT cluster, name FROM clusters WHERE clustering = ?1 AND (?2 IS NULL OR cluster = ?2) ORDER BY cluster",
            (number, only),
        ).fetchall()
        sizes, labels = cluster_sizes(connection, number), cluster_labels(connection, number)
        clusters = []
        for cluster, name in found:
            size, cohesion = sizes.get(cluster, (0, None))
            near = nearest_ids(connection, number, cluster)
            medoid = near[0] if near else None
            clusters.append(Cluster(cluster, size, cohesion, medoid, near, labels.get(cluster, {}), name))
        return clusters


def _check_cluster(connection: sqlite3.Connection, number: int, cluster: int) -> None:
    known = (
        0 <= cluster < 2**63
        and connection.execute(
            "SELECT 1 FROM clusters WHERE clustering = ? AND cluster = ?", (number, cluster)
        ).fetchone()
    )
    if not known:
        raise ClusterMissing("the clustering has no cluster with this number; list its clusters.")
