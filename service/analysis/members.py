"""Members of clusters, in SQL: who belongs to which. Every function gets the connection of a write or of a snapshot.

`members` lists the points of each cluster from the centroid outwards; `tallies` counts them by label. Both follow the points:
`admit` lets them in, triggers of the schema (`service/store/migrations.py`) let them go.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from service.analysis.centroids import Centroids, Clusters
from service.points import Rows, Vector
from service.store.cursors import read_cursor, write_cursor

REPRESENTATIVES = 6  # a row of pictures in a report

Place = tuple[float, int]  # of a member: its distance (1 - cosine) from the centroid, and its row
Placement = tuple[Place, int]  # a member's place and its cluster


def admit(connection: sqlite3.Connection, number: int, rows: Rows, clusters: Clusters, similarity: Vector) -> None:
    """Make points members of the clusters given, cosines [B] to the centroid beside them; those that are gone are left out."""
    distances = 1.0 - similarity.astype(np.float64)
    columns = (clusters.tolist(), distances.tolist(), rows.tolist())
    connection.executemany(
        "INSERT INTO members (clustering, cluster, distance, row) SELECT ?1, ?2, ?3, ?4"
        " WHERE EXISTS (SELECT 1 FROM points WHERE row = ?4)",
        [(number, *member) for member in zip(*columns, strict=True)],
    )
    connection.execute(
        "INSERT INTO tallies SELECT m.clustering, m.cluster, ifnull(p.label, ''), count(*), sum(1 - m.distance)"
        " FROM json_each(?) AS j CROSS JOIN members AS m ON m.row = j.value AND m.clustering = ?"
        " CROSS JOIN points AS p ON p.row = m.row GROUP BY 2, 3"
        " ON CONFLICT DO UPDATE SET points = points + excluded.points, similarity = similarity + excluded.similarity",
        (json.dumps(rows.tolist()), number),
    )


def insert_clusters(connection: sqlite3.Connection, number: int, centroids: Centroids) -> None:
    """Keep the centroids of a clustering, numbered as they stand."""
    blobs = (vector.tobytes() for vector in centroids.vectors.astype("<f4"))
    connection.executemany(
        "INSERT INTO clusters (clustering, cluster, centroid, reach) VALUES (?, ?, ?, ?)",
        [(number, i, blob, reach) for i, (blob, reach) in enumerate(zip(blobs, centroids.reach.tolist(), strict=True))],
    )


def read_centroids(connection: sqlite3.Connection, number: int, dimension: int) -> Centroids:
    """Return the centroids of a clustering."""
    found = connection.execute(
        "SELECT centroid, reach FROM clusters WHERE clustering = ? ORDER BY cluster", (number,)
    ).fetchall()
    vectors = np.frombuffer(b"".join(blob for blob, _ in found), "<f4").reshape(-1, dimension)
    return Centroids(vectors.astype(np.float32, copy=False), np.array([reach for _, reach in found], np.float32))


def cluster_sizes(connection: sqlite3.Connection, number: int) -> dict[int, tuple[int, float]]:
    """Return, of each cluster that has members (and of NOISE): how many, and their mean cosine to the centroid."""
    found = connection.execute(
        "SELECT cluster, sum(points), sum(similarity) / sum(points) FROM tallies WHERE clustering = ? AND points > 0"
        " GROUP BY cluster",
        (number,),
    )
    return {cluster: (size, max(-1.0, min(mean, 1.0))) for cluster, size, mean in found}


def cluster_labels(connection: sqlite3.Connection, number: int) -> dict[int, dict[str, int]]:
    """Return how many members of each cluster bear each label, the most frequent first."""
    found = connection.execute(
        "SELECT cluster, label, points FROM tallies WHERE clustering = ? AND points > 0 AND label <> ''"
        " ORDER BY cluster, points DESC, label",
        (number,),
    )
    return {
        cluster: {label: points for _, label, points in group}
        for cluster, group in itertools.groupby(found, lambda row: row[0])
    }


def nearest_ids(connection: sqlite3.Connection, number: int, cluster: int) -> tuple[str, ...]:
    """Return the members nearest to a cluster's centroid, best first."""
    found = connection.execute(
        "SELECT p.id FROM members AS m JOIN points AS p ON p.row = m.row WHERE m.clustering = ? AND m.cluster = ?"
        " ORDER BY m.distance, m.row LIMIT ?",
        (number, cluster, REPRESENTATIVES),
    )
    return tuple(id_ for (id_,) in found)


def nearest_first(
    connection: sqlite3.Connection, number: int, cluster: int, limit: int, after: Place | None
) -> list[Placement]:
    """Return up to `limit` members of a cluster after a place, nearest to the centroid first: their place and cluster."""
    found = connection.execute(
        "SELECT distance, row FROM members WHERE clustering = ? AND cluster = ? AND (distance, row) > (?, ?)"
        " ORDER BY distance, row LIMIT ?",
        (number, cluster, *(after or (-math.inf, 0)), limit),
    )
    return [((distance, row), cluster) for distance, row in found]


def farthest_first(
    connection: sqlite3.Connection, number: int, clusters: Iterable[int], limit: int, after: Place | None
) -> list[Placement]:
    """Return up to `limit` members of some clusters after a place, farthest from their centroids first."""

    def farthest(cluster: int) -> Iterator[Placement]:
        found = connection.execute(
            "SELECT distance, row FROM members WHERE clustering = ? AND cluster = ? AND (distance, row) < (?, ?)"
            " ORDER BY distance DESC, row DESC",
            (number, cluster, *(after or (math.inf, 0))),
        )
        return (((distance, row), cluster) for distance, row in found)

    # each reads on only as far as it is asked
    merged = heapq.merge(*map(farthest, clusters), key=lambda found: found[0], reverse=True)
    return list(itertools.islice(merged, limit))


def page(
    listing: str, limit: int, cursor: str | None, read: Callable[[int, Place | None], list[Placement]]
) -> tuple[list[Placement], str | None]:
    """Return a page of a listing by places, and the cursor of the next page or None. Raises CursorInvalid."""
    found = read(limit + 1, None if cursor is None else read_cursor(cursor, listing, _place))
    more = len(found) > limit
    return found[:limit], write_cursor(listing, list(found[limit - 1][0])) if more else None


def _place(value: object) -> Place:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("a member's place is its distance and its row")
    distance, row = float(value[0]), int(value[1])
    if not (math.isfinite(distance) and 0 <= row < 2**63):
        raise ValueError("a distance is finite and a row has 63 bits")
    return distance, row
