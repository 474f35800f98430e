"""Clusterings: groups of a collection's points as they were at one moment, kept beside the records under an id.

A clustering does not change when points do. What is listed of it leaves out members that are gone: representatives and
medoid are the nearest members still there. With cosine and unit vectors the member nearest to the centroid is the medoid,
for the sum of a member's cosines to all others is its product with the sum of all, which points where the centroid does.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable

import numpy as np

from service.cursors import read_cursor, write_cursor
from service.database import Database
from service.errors import ClusteringMissing, ClusterMissing, CollectionEmpty, Invalid
from service.kmeans import Partition, spherical_kmeans
from service.points import Cluster, ClusterHit, Clustering, Point, Vector
from service.records import Records
from service.search import Search
from service.vectors import Rows

REPRESENTATIVES = 6  # a row of pictures in a report
MEMBERS_PER_WRITE = 20_000  # some 50 ms of the writer; other writes come between
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


class Clusterings:
    """The clusterings of one collection."""

    def __init__(self, database: Database, records: Records, search: Search) -> None:
        self._database = database
        self._records = records
        self._search = search

    def create(self, method: str, k: int, seed: int, progress: Callable[[float], None]) -> str:
        """Make and keep a clustering of all points; return its id. Raises CollectionEmpty, and what `progress` raises.

        It can be listed once it is whole; one that was interrupted is cleared away when the library opens.
        """
        if method != "kmeans":
            raise Invalid(f"there is no clustering method {method!r}; use kmeans.")
        if k < 1 or not 0 <= seed < 2**31:
            raise Invalid("a clustering needs at least one cluster, and a seed from 0 to 2147483647.")
        with self._search.moment() as now:
            rows = now.view.rows()
            if not len(rows):
                raise CollectionEmpty("the collection has no points to group; put some first.")
            labels = self._records.labels_by_row(now.connection)
        vectors = now.view.vectors(rows)
        partition = spherical_kmeans(vectors, k, seed, lambda share: progress(0.8 * share), now.view.threads)
        number = self._database.write(lambda c: self._begin(c, method, seed, len(rows)))
        self._write_members(number, rows, partition, lambda share: progress(0.8 + 0.2 * share))
        groups = [labels.get(row) for row in rows.tolist()]
        clusters = _described(partition, groups)
        self._database.write(lambda c: self._finish(c, number, clusters))
        progress(1.0)
        return str(number)

    def _begin(self, connection: sqlite3.Connection, method: str, seed: int, points: int) -> int:
        self._records.check_exists(connection)
        cursor = connection.execute(
            "INSERT INTO clusterings (collection, method, seed, points, created_at) VALUES (?, ?, ?, ?, ?)",
            (self._records.collection, method, seed, points, time.time()),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _write_members(self, number: int, rows: Rows, partition: Partition, progress: Callable[[float], None]) -> None:
        distances = 1.0 - partition.similarity.astype(np.float64)
        columns = (partition.assigned.tolist(), distances.tolist(), rows.tolist())
        members = [(number, *member) for member in zip(*columns, strict=True)]
        for start in range(0, len(members), MEMBERS_PER_WRITE):
            progress(start / len(members))
            part = members[start : start + MEMBERS_PER_WRITE]
            self._database.write(lambda c, part=part: _insert_members(c, part))  # type: ignore[misc]

    def _finish(
        self, connection: sqlite3.Connection, number: int, clusters: list[tuple[int, int, float, str, bytes]]
    ) -> None:
        self._records.check_exists(connection)
        connection.executemany(
            "INSERT INTO clusters (clustering, cluster, size, cohesion, labels, centroid) VALUES (?, ?, ?, ?, ?, ?)",
            [(number, *cluster) for cluster in clusters],
        )
        connection.execute("UPDATE clusterings SET finished = 1 WHERE clustering = ?", (number,))

    def all(self) -> list[Clustering]:
        """Return the finished clusterings, oldest first."""
        with self._database.snapshot() as connection:
            found = connection.execute(
                "SELECT clustering, method, (SELECT count(*) FROM clusters AS c WHERE c.clustering = g.clustering),"
                " points, seed, created_at FROM clusterings AS g WHERE collection = ? AND finished ORDER BY clustering",
                (self._records.collection,),
            )
            return [Clustering(str(number), *rest) for number, *rest in found]

    def clusters(self, clustering: str) -> list[Cluster]:
        """Return the clusters of a clustering, largest first."""
        with self._database.snapshot() as connection:
            number = self._number(connection, clustering)
            return [self._cluster(connection, number, row) for row in _cluster_rows(connection, number)]

    def rename(self, clustering: str, cluster: int, name: str | None) -> Cluster:
        """Name a cluster, or take its name away."""

        def work(connection: sqlite3.Connection) -> Cluster:
            number = self._number(connection, clustering)
            _check_cluster(connection, number, cluster)
            connection.execute(
                "UPDATE clusters SET name = ? WHERE clustering = ? AND cluster = ?", (name, number, cluster)
            )
            return self._cluster(connection, number, next(iter(_cluster_rows(connection, number, cluster))))

        return self._database.write(work)

    def members(self, clustering: str, cluster: int, limit: int, cursor: str | None) -> tuple[list[Point], str | None]:
        """Return a page of members, nearest to the centroid first, and the cursor of the next page or None."""
        listing = f"members of {clustering}/{cluster} of {self._records.collection}"
        with self._database.snapshot() as connection:
            number = self._number(connection, clustering)
            _check_cluster(connection, number, cluster)
            after = (-math.inf, 0) if cursor is None else read_cursor(cursor, listing, _member_position)
            found = connection.execute(
                "SELECT m.distance, m.row, p.id, p.label, p.payload FROM members AS m JOIN points AS p ON p.row = m.row"
                " WHERE m.clustering = ? AND m.cluster = ? AND (m.distance, m.row) > (?, ?)"
                " ORDER BY m.distance, m.row LIMIT ?",
                (number, cluster, *after, limit + 1),
            ).fetchall()
        page = [Point(id_, label, None if text is None else json.loads(text)) for *_, id_, label, text in found[:limit]]
        last = found[limit - 1][:2] if len(found) > limit else None
        return page, None if last is None else write_cursor(listing, list(last))

    def nearest(self, clustering: str, query: Vector, limit: int) -> list[ClusterHit]:
        """Return the clusters nearest to a unit vector [1, D] by their centroids, best first."""
        with self._database.snapshot() as connection:
            number = self._number(connection, clustering)
            found = connection.execute(
                "SELECT cluster, centroid, name FROM clusters WHERE clustering = ? ORDER BY cluster", (number,)
            ).fetchall()
            centroids = np.stack([np.frombuffer(blob, "<f4") for _, blob, _ in found])  # [K, D]
            scores = np.clip(centroids @ query[0], -1.0, 1.0)
            order = np.argsort(-scores, kind="stable")[:limit]
            return [
                ClusterHit(found[i][0], float(scores[i]), _nearest_ids(connection, number, found[i][0]), found[i][2])
                for i in order.tolist()
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
    def _cluster(connection: sqlite3.Connection, number: int, row: tuple[int, int, float, str, str | None]) -> Cluster:
        cluster, size, cohesion, labels, name = row
        nearest = _nearest_ids(connection, number, cluster)
        return Cluster(
            cluster, size, cohesion, nearest[0] if nearest else None, nearest, dict(json.loads(labels)), name
        )


def _described(partition: Partition, labels: list[str | None]) -> list[tuple[int, int, float, str, bytes]]:
    """Return, for each cluster: its number, size, cohesion, label counts as JSON (most frequent first), centroid."""
    counts: list[Counter[str]] = [Counter() for _ in partition.centroids]
    for cluster, label in zip(partition.assigned.tolist(), labels, strict=True):
        if label is not None:
            counts[cluster][label] += 1
    sizes = np.bincount(partition.assigned, minlength=len(counts))
    sums = np.bincount(partition.assigned, weights=partition.similarity, minlength=len(counts))
    return [
        (i, int(sizes[i]), float(sums[i] / sizes[i]), json.dumps(counts[i].most_common()), centroid.tobytes())
        for i, centroid in enumerate(partition.centroids.astype("<f4"))
    ]


def _insert_members(connection: sqlite3.Connection, members: list[tuple[int, int, float, int]]) -> None:
    connection.executemany("INSERT INTO members (clustering, cluster, distance, row) VALUES (?, ?, ?, ?)", members)


def _cluster_rows(
    connection: sqlite3.Connection, number: int, cluster: int | None = None
) -> list[tuple[int, int, float, str, str | None]]:
    return connection.execute(
        "SELECT cluster, size, cohesion, labels, name FROM clusters"
        " WHERE clustering = ?1 AND (?2 IS NULL OR cluster = ?2) ORDER BY cluster",
        (number, cluster),
    ).fetchall()


def _check_cluster(connection: sqlite3.Connection, number: int, cluster: int) -> None:
    if not (0 <= cluster < 2**63) or not _cluster_rows(connection, number, cluster):
        raise ClusterMissing("the clustering has no cluster with this number; list its clusters.")


def _nearest_ids(connection: sqlite3.Connection, number: int, cluster: int) -> tuple[str, ...]:
    found = connection.execute(
        "SELECT p.id FROM members AS m JOIN points AS p ON p.row = m.row WHERE m.clustering = ? AND m.cluster = ?"
        " ORDER BY m.distance, m.row LIMIT ?",
        (number, cluster, REPRESENTATIVES),
    )
    return tuple(id_ for (id_,) in found)


def _member_position(value: object) -> tuple[float, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("a member's position is its distance and its row")
    distance, row = float(value[0]), int(value[1])
    if not (math.isfinite(distance) and 0 <= row < 2**63):
        raise ValueError("a distance is finite and a row has 63 bits")
    return distance, row
