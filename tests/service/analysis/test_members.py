"""Members of clusterings under writes, against a recomputation from what the collection holds."""

import contextlib
import sqlite3
import tempfile
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.analysis import clusterings
from service.analysis.grouping import Recipe
from service.errors import ClusteringMissing, CollectionMissing
from service.library.library import Collection, Library
from service.points import NewPoint, Point, hash_vector, unit_rows
from service.store.database import DATABASE_NAME
from service.store.filters import Filter, Match
from service.store.migrations import MIGRATIONS, TALLIES, migrate
from service.store.point_rows import checksum

D, K = 6, 3


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path) as library:
        yield library


def nothing(_: float) -> None:
    """Take no notice of progress."""


def new(id_: str, seed: int, label: str | None = None) -> NewPoint:
    # never the same vector under two ids: members at equal distances could be listed either way
    vector = np.random.default_rng([*id_.encode(), seed]).normal(size=D)
    return NewPoint(id_, hash_vector(vector), vector, label)


def filled(library: Library, count: int = 40) -> Collection:
    collection = library.create("c", "f", D)[0]
    collection.put([new(f"p{i}", i, "ab"[i % 2]) for i in range(count)])
    return collection


def paged(read: Callable[[str | None], tuple[list, str | None]]) -> list:
    found, cursor = read(None)
    while cursor is not None:
        page, cursor = read(cursor)
        found += page
    return found


def centroids_of(collection: Collection, clustering: str) -> npt.NDArray[np.float64]:
    """Return the centroids [K, D]: the cosine to the unit vector of an axis is the coordinate on it."""
    count = len(collection.clusters(clustering))
    found = np.empty((count, D))
    for axis in range(D):
        for hit in collection.query_clusters(clustering, np.eye(D)[axis], count):
            found[hit.cluster, axis] = hit.score
    return found


def everything(collection: Collection) -> list[Point]:
    return paged(lambda cursor: collection.scroll(100, cursor, with_vector=True))


def check(collection: Collection, clustering: str) -> None:
    """Compare everything a clustering says with what the nearest centroids of the points that are there make of it."""
    centroids = centroids_of(collection, clustering)
    points = everything(collection)
    cosines = unit_rows([p.vector for p in points], D).astype(np.float64) @ centroids.T
    assigned = cosines.argmax(axis=1)
    by_id = {p.id: i for i, p in enumerate(points)}
    clusters = collection.clusters(clustering)
    assert sum(c.size for c in clusters) == len(points)
    for c in clusters:
        mine = np.flatnonzero(assigned == c.cluster)
        assert c.size == len(mine)
        assert c.labels == Counter(points[i].label for i in mine if points[i].label is not None)
        listed = paged(lambda cursor, n=c.cluster: collection.cluster_points(clustering, n, 7, cursor))
        order = [by_id[p.id] for p in listed]
        assert sorted(order) == mine.tolist()
        # two members are equally far from their mean, in whichever order rounding puts them
        assert (np.diff(cosines[order, c.cluster]) <= 1e-6).all()
        assert list(c.representatives) == [p.id for p in listed[:6]]
        assert c.medoid == (listed[0].id if listed else None)
        if order:
            assert c.cohesion == pytest.approx(cosines[mine, c.cluster].mean(), abs=1e-6)
        else:
            assert c.cohesion is None
        worst = paged(lambda cursor, n=c.cluster: collection.cluster_outliers(clustering, n, 7, cursor))
        assert [o.point.id for o in worst] == [p.id for p in reversed(listed)]
    worst = paged(lambda cursor: collection.cluster_outliers(clustering, None, 7, cursor))
    assert sorted(by_id[o.point.id] for o in worst) == list(range(len(points)))
    assert (np.diff(cosines.max(axis=1)[[by_id[o.point.id] for o in worst]]) >= -1e-6).all()
    for o in worst:
        assert o.cluster == assigned[by_id[o.point.id]]
        assert o.score == pytest.approx(cosines[by_id[o.point.id]].max(), abs=1e-6)


ids = st.integers(0, 11).map(lambda i: f"p{i}")
labels = st.sampled_from(["a", "b", None])
step = st.one_of(
    st.tuples(st.just("put"), ids, st.integers(0, 20), labels),
    st.tuples(st.just("label"), ids, labels),
    st.tuples(st.just("delete"), ids),
    st.tuples(st.just("delete label"), st.sampled_from("ab")),
    st.tuples(st.just("cluster"), st.integers(1, 4)),
)


def apply(collection: Collection, operation: tuple) -> None:
    match operation:
        case ("put", id_, seed, label):
            # three at once, so that one write creates, replaces and relabels
            collection.put(
                [new(id_, seed, label), new(f"{id_}b", seed % 3, label), new("same", 1, label)], replace=True
            )
        case ("label", id_, label) if id_ in collection.stored([id_]):
            collection.update(id_, label)
        case ("delete", id_):
            collection.delete(ids=[id_])
        case ("delete label", label):
            collection.delete(filter=Filter(must=(Match("label", (label,)),)))
        case ("cluster", k) if collection.count():
            collection.cluster(Recipe("kmeans", k), nothing)


@settings(max_examples=25, deadline=None)
@given(st.lists(step, min_size=4, max_size=16))
def test_every_clustering_follows_whatever_is_written(operations: list[tuple]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with Library.open(Path(folder)) as library:
            collection = filled(library, 12)
            collection.cluster(Recipe("kmeans", K), nothing)
            for operation in operations:
                apply(collection, operation)
            made = [c.id for c in collection.clusterings()]
            for clustering in made:
                check(collection, clustering)
        with Library.open(Path(folder)) as library:  # and nothing of it was in memory only
            collection = library.collection("c")
            collection.put([new("after", 99, "z")])
            for clustering in made:
                check(collection, clustering)


def test_what_is_written_while_a_clustering_is_made_is_in_it(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusterings, "MEMBERS_PER_WRITE", 5)
    collection = filled(library)
    seen: list[float] = []

    def write(share: float) -> None:
        """Write between all steps, also after the last members were written and the arrivals are caught up with."""
        n = len(seen)
        seen.append(share)
        if n < 200:
            collection.put([new(f"n{n}", 1000 + n, "c"), new(f"p{n % 40}", 2000 + n, "d")], replace=True)
            collection.delete(ids=[f"p{(n + 7) % 40}", f"n{n - 3}"])
            collection.put([new(f"x{n}-{i}", 5000 + 10 * n + i) for i in range(2)])

    clustering = collection.cluster(Recipe("kmeans", K), write)
    assert sum(share >= 0.7 for share in seen) > 3
    check(collection, clustering)
    collection.put([new("last", 77)])
    check(collection, clustering)


def test_a_point_is_in_its_cluster_when_the_put_has_returned(library: Library) -> None:
    collection = filled(library)
    made = [collection.cluster(Recipe("kmeans", k), nothing) for k in (2, 5)]
    for n in range(10):
        point = new(f"new{n}", 500 + n, "new")
        collection.put([point])
        for clustering in made:
            nearest = collection.query_clusters(clustering, np.asarray(point.vector), 1)[0].cluster
            listed = paged(lambda cursor, g=clustering, c=nearest: collection.cluster_points(g, c, 50, cursor))
            assert point.id in {p.id for p in listed}
            assert collection.clusters(clustering)[nearest].labels["new"] >= 1


def test_a_refused_put_joins_nothing(library: Library) -> None:
    collection = filled(library)
    clustering = collection.cluster(Recipe("kmeans", K), nothing)
    outcomes = collection.put([new("p0", 999)])
    assert outcomes[0].error is not None
    check(collection, clustering)


def test_arrivals_far_from_every_dense_cluster_are_noise(library: Library) -> None:
    collection = library.create("c", "f", D)[0]
    rng = np.random.default_rng(0)
    groups = np.repeat(np.eye(D)[:2], 30, axis=0) + 0.03 * rng.normal(size=(60, D))
    collection.put([NewPoint(f"g{i}", hash_vector(v), v) for i, v in enumerate(groups)])
    clustering = collection.cluster(Recipe("hdbscan", min_size=10), nothing)
    before = {c.cluster: c.size for c in collection.clusters(clustering)}
    [made] = collection.clusterings()
    assert (made.method, made.clusters, made.parameters) == ("hdbscan", 2, {"min_size": 10, "sample": 60})
    assert made.noise == 60 - sum(before.values())
    inside = unit_rows([groups[:30].mean(axis=0)], D)[0]
    collection.put([NewPoint("in", b"i", inside), NewPoint("out", b"o", np.eye(D)[4])])
    after = {c.cluster: c.size for c in collection.clusters(clustering)}
    assert sum(after.values()) == sum(before.values()) + 1
    assert collection.clusterings()[0].noise == made.noise + 1
    first = collection.cluster_outliers(clustering, None, 1)[0][0]
    assert (first.point.id, first.cluster) == ("out", None)
    assert first.score < 0.5
    listed = paged(lambda cursor: collection.cluster_outliers(clustering, None, 2, cursor))
    assert len(listed) == made.noise + 1
    assert all(each.cluster is None for each in listed)
    collection.delete(ids=["out"])
    assert collection.clusterings()[0].noise == made.noise


def test_a_deleted_clustering_leaves_nothing_behind(tmp_path: Path) -> None:
    with Library.open(tmp_path) as library:
        collection = filled(library)
        first, second = (collection.cluster(Recipe("kmeans", K), nothing) for _ in range(2))
        collection.delete_clustering(first)
        assert [c.id for c in collection.clusterings()] == [second]
        for use in (collection.clusters, collection.delete_clustering):
            with pytest.raises(ClusteringMissing):
                use(first)
        collection.put([new("more", 1)])
        check(collection, second)
        assert left_of(library, {second})


def test_a_dropped_collection_takes_its_clusterings_along(tmp_path: Path) -> None:
    with Library.open(tmp_path) as library:
        collection = filled(library)
        collection.cluster(Recipe("kmeans", K), nothing)
        library.drop("c")
        with pytest.raises(CollectionMissing):
            collection.clusterings()
        assert left_of(library, set())


def test_a_collection_dropped_while_it_is_clustered_leaves_nothing(library: Library) -> None:
    collection = filled(library)
    dropped = threading.Event()

    def drop(share: float) -> None:
        if share > 0.8 and not dropped.is_set():
            dropped.set()
            library.drop("c")

    with pytest.raises(CollectionMissing):
        collection.cluster(Recipe("kmeans", K), drop)
    assert left_of(library, set())


def left_of(library: Library, clusterings: set[str]) -> bool:
    """Whether, once the purge has gone through, only these clusterings have anything in the database."""
    for _ in range(50):  # its steps queue behind one another, and behind each of these
        library._database.write(lambda _: None)
    with library._database.snapshot() as connection:
        for table in ("clusterings", "clusters", "tallies", "members"):
            found = connection.execute(f"SELECT DISTINCT clustering FROM {table}")
            if {str(number) for (number,) in found} - clusterings:
                return False
    return True


def test_a_clustering_of_an_older_library_keeps_its_members_and_follows_from_now_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = MIGRATIONS[: MIGRATIONS.index(TALLIES)]
    monkeypatch.setattr("service.store.migrations.MIGRATIONS", before)
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None)) as old:
        migrate(old)
        older_clustering(old)
    monkeypatch.undo()
    with Library.open(tmp_path) as library:
        collection = library.collection("c")
        [made] = collection.clusterings()
        assert (made.method, made.clusters, made.points, made.noise, made.parameters) == ("kmeans", 2, 5, 0, {})
        first, second = collection.clusters(made.id)
        assert (first.size, first.labels, first.name) == (2, {"a": 1}, "birds")
        assert first.cohesion == pytest.approx(0.85)
        assert (second.size, second.labels, second.cohesion) == (1, {"b": 1}, pytest.approx(0.7))
        collection.put([NewPoint("new", b"n", np.eye(D)[1], "b")])
        collection.delete(ids=["r1"])
        assert [c.size for c in collection.clusters(made.id)] == [1, 2]
        assert [p.id for p in collection.cluster_points(made.id, 1, 5)[0]] == ["new", "r3"]


def older_clustering(connection: sqlite3.Connection) -> None:
    """Write what the library wrote before members followed the points: one of them, 9, has been deleted."""
    connection.execute("INSERT INTO collections VALUES (1, 'c', 'f', ?, 'none', 0)", (D,))
    for row, label in ((1, "a"), (2, None), (3, "b")):
        vector = np.eye(D, dtype="<f4")[row % 2].tobytes()
        columns = (row, 1, f"r{row}", b"h", label)
        connection.execute(
            "INSERT INTO points (row, collection, id, content_hash, label, crc32) VALUES (?, ?, ?, ?, ?, ?)",
            (*columns, checksum(*columns, None, None, None, None)),
        )
        connection.execute("INSERT INTO vectors VALUES (?, ?, ?)", (row, vector, zlib.crc32(vector)))
    connection.execute(
        "INSERT INTO clusterings (collection, method, seed, points, created_at, finished) VALUES (1, 'kmeans', 0, 5, 0, 1)"
    )
    for cluster, name in ((0, "birds"), (1, None)):
        connection.execute(
            "INSERT INTO clusters VALUES (1, ?, 3, 0.5, '[]', ?, ?)",
            (cluster, np.eye(D, dtype="<f4")[cluster].tobytes(), name),
        )
    members = [(1, 0, 0.1, 1), (1, 0, 0.2, 2), (1, 0, 0.15, 9), (1, 1, 0.3, 3)]
    connection.executemany("INSERT INTO members VALUES (?, ?, ?, ?)", members)
