from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from service.analysis.grouping import Recipe
from service.errors import (
    ClusteringMissing,
    ClusterMissing,
    CollectionEmpty,
    CursorInvalid,
    DimensionMismatch,
    Invalid,
    InvalidLabel,
    JobCancelled,
)
from service.library.library import Collection, Library
from service.points import NewPoint, hash_vector, unit_rows
from service.store.cursors import write_cursor

D, GROUPS, EACH = 16, 4, 30


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path) as library:
        yield library


def blobs() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return vectors [B, D] in well-separated groups, and the group of each."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(GROUPS), EACH)
    return 5 * np.eye(D)[truth] + 0.3 * rng.normal(size=(len(truth), D)), truth


@pytest.fixture
def collection(library: Library) -> Collection:
    collection = library.create("things", "f", D)[0]
    x, truth = blobs()
    labels = [None if i % EACH == 0 else f"group {t}" for i, t in enumerate(truth)]
    collection.put([NewPoint(f"{i:03}", hash_vector(v), v, labels[i], {"n": i}) for i, v in enumerate(x)])
    return collection


def nothing(_: float) -> None:
    """Take no notice of progress."""


def test_a_clustering_says_what_its_clusters_are(collection: Collection) -> None:
    steps: list[float] = []
    id_ = collection.cluster(Recipe("kmeans", GROUPS, 3), steps.append)
    assert steps == sorted(steps)
    assert steps[-1] == 1.0
    (made,) = collection.clusterings()
    assert (made.id, made.method, made.clusters, made.points, made.seed) == (id_, "kmeans", GROUPS, GROUPS * EACH, 3)
    clusters = collection.clusters(id_)
    assert [c.cluster for c in clusters] == list(range(GROUPS))
    x, truth = blobs()
    units = unit_rows(x, D)
    for cluster in clusters:
        group = truth[int(cluster.representatives[0])]
        members = np.flatnonzero(truth == group)
        assert cluster.size == EACH
        assert cluster.labels == {f"group {group}": EACH - 1}
        assert 0.9 < cluster.cohesion <= 1
        assert cluster.name is None
        assert {truth[int(r)] for r in cluster.representatives} == {group}
        medoid = members[(units[members] @ units[members].T).sum(axis=1).argmax()]
        assert cluster.medoid == f"{medoid:03}" == cluster.representatives[0]


def test_the_members_of_a_cluster_are_paged_from_the_centroid_outwards(collection: Collection) -> None:
    id_ = collection.cluster(Recipe("kmeans", GROUPS, 3), nothing)
    listed, cursor, first = [], None, True
    while first or cursor is not None:
        page, cursor = collection.cluster_points(id_, 0, 7, cursor)
        listed += page
        first = False
    assert len({p.id for p in listed}) == len(listed) == EACH
    assert tuple(p.id for p in listed[:6]) == collection.clusters(id_)[0].representatives
    assert listed[0].payload == {"n": int(listed[0].id)}


def test_a_deleted_point_is_listed_nowhere(collection: Collection) -> None:
    id_ = collection.cluster(Recipe("kmeans", GROUPS, 3), nothing)
    gone = collection.clusters(id_)[0].representatives[:2]
    collection.delete(ids=gone)
    cluster = collection.clusters(id_)[0]
    assert not {*gone} & {*cluster.representatives, cluster.medoid}
    assert len(collection.cluster_points(id_, 0, 100)[0]) == EACH - 2
    collection.delete(ids=[p.id for p in collection.cluster_points(id_, 0, 100)[0]])
    cluster = collection.clusters(id_)[0]
    assert (cluster.medoid, cluster.representatives, cluster.size, cluster.cohesion, cluster.labels) == (
        None,
        (),
        0,
        None,
        {},
    )


def test_clusters_are_searched_by_their_centroids(collection: Collection) -> None:
    id_ = collection.cluster(Recipe("kmeans", GROUPS, 3), nothing)
    x, truth = blobs()
    for i in (0, EACH, 2 * EACH):
        hits = collection.query_clusters(id_, x[i], 2)
        assert len(hits) == 2
        assert 1 >= hits[0].score > hits[1].score >= -1
        assert {truth[int(r)] for r in hits[0].representatives} == {truth[i]}
    assert len(collection.query_clusters(id_, x[0], 1000)) == GROUPS
    with pytest.raises(DimensionMismatch):
        collection.query_clusters(id_, [1.0], 1)


def test_a_cluster_can_be_named_and_keeps_its_name(tmp_path: Path) -> None:
    with Library.open(tmp_path) as library:
        collection = library.create("c", "f", D)[0]
        x, _ = blobs()
        collection.put([NewPoint(str(i), hash_vector(v), v) for i, v in enumerate(x)])
        id_ = collection.cluster(Recipe("kmeans", 2, 0), nothing)
        assert collection.rename_cluster(id_, 1, "birds").name == "birds"
        with pytest.raises(InvalidLabel):
            collection.rename_cluster(id_, 1, "")
        before = collection.clusters(id_)
    with Library.open(tmp_path) as library:
        collection = library.collection("c")
        assert collection.clusters(id_) == before
        assert [h.name for h in collection.query_clusters(id_, x[0], 2) if h.cluster == 1] == ["birds"]
        assert collection.rename_cluster(id_, 1, None).name is None


def test_clusterings_are_versions_that_stand_side_by_side(library: Library, collection: Collection) -> None:
    first = collection.cluster(Recipe("kmeans", 2, 0), nothing)
    collection.put([NewPoint("new", b"x", np.ones(D))])
    second = collection.cluster(Recipe("kmeans", 3, 0), nothing)
    assert [(c.id, c.points) for c in collection.clusterings()] == [(first, GROUPS * EACH), (second, GROUPS * EACH + 1)]
    other = library.create("other", "f", D)[0]
    assert other.clusterings() == []
    with pytest.raises(ClusteringMissing):
        other.clusters(first)


@pytest.mark.parametrize(
    "id_", ["", "0", "99", "-1", "x", "1.0", "9" * 30, "\N{ARABIC-INDIC DIGIT ONE}", "\0", "\ud800"]
)
def test_an_unknown_clustering_is_missing(collection: Collection, id_: str) -> None:
    collection.cluster(Recipe("kmeans", 2, 0), nothing)
    for use in (
        lambda: collection.clusters(id_),
        lambda: collection.cluster_points(id_, 0, 5),
        lambda: collection.rename_cluster(id_, 0, "x"),
        lambda: collection.query_clusters(id_, np.ones(D), 5),
    ):
        with pytest.raises(ClusteringMissing):
            use()


@pytest.mark.parametrize("cluster", [-1, 2, 10**30])
def test_an_unknown_cluster_is_missing(collection: Collection, cluster: int) -> None:
    id_ = collection.cluster(Recipe("kmeans", 2, 0), nothing)
    with pytest.raises(ClusterMissing):
        collection.cluster_points(id_, cluster, 5)
    with pytest.raises(ClusterMissing):
        collection.rename_cluster(id_, cluster, "x")


def test_a_foreign_or_forged_cursor_is_refused(collection: Collection) -> None:
    id_ = collection.cluster(Recipe("kmeans", 2, 0), nothing)
    cursor = collection.cluster_points(id_, 0, 5)[1]
    points = collection.scroll(5)[1]
    listing = f"members of {id_}/0 of {collection.number}"
    forged = [write_cursor(listing, bad) for bad in ("a", [1.0], [1.0, 2.0**70], [float("inf"), 1.0])]
    for bad in (points, "x", *forged):
        with pytest.raises(CursorInvalid):
            collection.cluster_points(id_, 0, 5, bad)
    with pytest.raises(CursorInvalid):
        collection.cluster_points(id_, 1, 5, cursor)


def test_a_clustering_needs_points_and_sensible_numbers(library: Library, collection: Collection) -> None:
    with pytest.raises(CollectionEmpty):
        library.create("empty", "f", D)[0].cluster(Recipe("kmeans", 2, 0), nothing)
    for wrong in (
        Recipe("kmeans", 0),
        Recipe("kmeans"),
        Recipe("kmeans", 2, -1),
        Recipe("kmeans", 2, 2**31),
        Recipe("kmeans", 2, min_size=5),
        Recipe("hdbscan", 2),
        Recipe("hdbscan", min_size=1),
        Recipe("magic", 2),  # type: ignore[arg-type]
    ):
        with pytest.raises(Invalid):
            collection.cluster(wrong, nothing)


@pytest.mark.parametrize("at", [0.0, 0.5, 0.8])
def test_a_clustering_that_is_cancelled_leaves_nothing(tmp_path: Path, at: float) -> None:
    def stop(share: float) -> None:
        if share >= at:
            raise JobCancelled

    with Library.open(tmp_path) as library:
        collection = library.create("c", "f", D)[0]
        x, _ = blobs()
        collection.put([NewPoint(str(i), hash_vector(v), v) for i, v in enumerate(x)])
        with pytest.raises(JobCancelled):
            collection.cluster(Recipe("kmeans", 2, 0), stop)
        assert collection.clusterings() == []
    with Library.open(tmp_path) as library, library._database.snapshot() as connection:
        assert connection.execute("SELECT count(*) FROM clusterings").fetchone()[0] == 0


@pytest.mark.parametrize("recipe", [Recipe("hdbscan"), Recipe(k="auto"), Recipe(k=1), Recipe(k=7)])
def test_u21_equal_points_are_one_cluster_by_any_method(library: Library, recipe: Recipe) -> None:
    copies = library.create("copies", "f", D)[0]
    vector = np.random.default_rng(3).normal(size=D)
    copies.put([NewPoint(f"{i:03}", hash_vector(vector), vector) for i in range(100)])
    clustering = copies.cluster(recipe, nothing)
    [cluster] = copies.clusters(clustering)
    assert (cluster.size, cluster.cohesion, cluster.medoid) == (100, 1.0, "000")
    copies.put([NewPoint("late", hash_vector(vector), vector)])
    [cluster] = copies.clusters(clustering)
    assert (cluster.size, cluster.cohesion) == (101, 1.0)
    [hit] = copies.query_clusters(clustering, vector, 5)
    assert hit.score == 1.0
    found, _ = copies.cluster_outliers(clustering, 0, 3)
    assert [each.score for each in found] == [1.0] * 3
