import subprocess
import sys
import time

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.cluster import HDBSCAN

from service.analysis import hdbscan, hdbscan_worker
from service.analysis.centroids import NOISE, Centroids
from service.analysis.hdbscan import cluster_by_density, sampled_size
from service.concurrency.child_process import ChildFailed
from service.errors import JobCancelled
from service.points import Vector, unit_rows

GROUPS, EACH, STRANGERS = 5, 40, 20


def nothing(_: float) -> None:
    """Take no notice of progress."""


def planted(dimension: int) -> tuple[Vector, npt.NDArray[np.int64]]:
    """Return unit vectors in tight groups and some strangers, and the group of each, NOISE for strangers."""
    rng = np.random.default_rng(0)
    truth = np.concatenate([np.repeat(np.arange(GROUPS), EACH), np.full(STRANGERS, NOISE)])
    vectors = rng.normal(size=(len(truth), dimension)) / np.sqrt(dimension)
    vectors[truth != NOISE] *= 0.3
    vectors[: GROUPS * EACH] += np.eye(dimension)[truth[: GROUPS * EACH]]
    return unit_rows(vectors, dimension), truth


def same(found: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> bool:
    """Whether two clusterings differ in the numbers of their clusters only."""
    pairs = {*zip(found.tolist(), wanted.tolist(), strict=True)}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) and all(
        (a == NOISE) == (b == NOISE) for a, b in pairs
    )


def test_the_clusters_are_those_of_scikit_learn() -> None:
    vectors, _ = planted(24)
    _, found = cluster_by_density(vectors, 8, nothing)
    assert same(found, HDBSCAN(min_cluster_size=8, copy=True).fit_predict(vectors))


def test_planted_groups_are_found_in_many_dimensions_and_strangers_are_noise() -> None:
    vectors, truth = planted(256)
    centroids, found = cluster_by_density(vectors, 5, nothing)
    assert same(found[truth != NOISE], truth[truth != NOISE])
    assert np.mean(found[truth == NOISE] == NOISE) >= 0.8
    np.testing.assert_allclose(np.linalg.norm(centroids.vectors, axis=1), 1, atol=1e-5)
    for cluster, (centroid, reach) in enumerate(zip(centroids.vectors, centroids.reach, strict=True)):
        assert np.mean(vectors[found == cluster] @ centroid >= reach) == pytest.approx(0.95, abs=0.02)
    # others of the same groups belong there, and other strangers nowhere
    again, their = centroids.assign(vectors)
    assert np.mean(again[truth != NOISE] == found[truth != NOISE]) >= 0.93
    assert np.mean(again[truth == NOISE] == NOISE) >= 0.8
    assert their.shape == again.shape


@pytest.mark.parametrize("count", [1, 4, 5, 30])
def test_where_nothing_is_dense_all_is_noise(count: int) -> None:
    vectors = unit_rows(np.eye(64)[:count], 64)
    centroids, found = cluster_by_density(vectors, 5, nothing)
    assert len(centroids) == 0
    assert (found == NOISE).all()
    clusters, similarity = centroids.assign(vectors)
    assert (clusters == NOISE).all()
    assert np.isfinite(similarity).all()


def test_a_cluster_takes_what_is_within_its_reach_and_no_more() -> None:
    reach = np.float32(0.8)
    centroids = Centroids(np.eye(3, dtype=np.float32)[:1], np.array([reach]))
    angles = np.array([reach, np.nextafter(reach, np.float32(0))])
    vectors = np.stack([angles, np.sqrt(1 - angles**2), np.zeros(2)], axis=1).astype(np.float32)
    assert centroids.assign(vectors)[0].tolist() == [0, NOISE]


def test_the_smallest_cluster_shrinks_with_the_sample() -> None:
    points = hdbscan.SAMPLE_POINTS
    assert [sampled_size(7, n) for n in (1, points, points + 1, 100 * points)] == [7, 7, 7, 5]
    assert sampled_size(3000, 10 * points) == 300


def test_stopping_ends_the_child_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def remember(*args: object, **options: object) -> subprocess.Popen[bytes]:
        children.append(start(*args, **options))  # type: ignore[call-overload]
        return children[-1]

    monkeypatch.setattr("service.concurrency.child_process.subprocess.Popen", remember)
    asked = time.monotonic()

    def stop(share: float) -> None:
        if share > 0:
            raise JobCancelled

    vectors = np.random.default_rng(0).normal(size=(20_000, 32)).astype(np.float32)  # some 40 s of work
    with pytest.raises(JobCancelled):
        cluster_by_density(vectors, 5, stop)
    assert time.monotonic() - asked < 5
    [started] = children
    assert started.returncode is not None
    assert started.returncode < 0


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(ChildFailed, match="ValueError"):
        hdbscan_worker.hdbscan(np.full((10, 2), np.nan, np.float32), 5, lambda: None)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for its parent's death")
def test_a_child_whose_parent_is_gone_does_not_stay() -> None:
    command = [sys.executable, "-m", "service.analysis.hdbscan_worker", "5", "1"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert b"the parent is gone" in ended.stderr


@pytest.mark.parametrize("dimension", [8, 384])
@pytest.mark.parametrize("rounding", [0.0, 1e-8])  # as another batch of the network rounds copies of one picture
def test_u21_a_hundred_equal_points_are_one_cluster(dimension: int, rounding: float) -> None:
    rng = np.random.default_rng(0)
    one, *strangers = unit_rows(rng.normal(size=(21, dimension)), dimension)
    copies = unit_rows(one + rounding * rng.normal(size=(100, dimension)), dimension)
    centroids, found = cluster_by_density(copies, 5, nothing)
    assert found.tolist() == [0] * 100
    assert centroids.reach.tolist() == [1.0]
    clusters, similarity = centroids.assign(np.vstack([copies, strangers]))
    assert clusters.tolist() == [0] * 100 + [NOISE] * 20
    assert (similarity[:100] == 1.0).all()
    # strangers beside them are noise
    assert cluster_by_density(np.vstack([copies, strangers]), 5, nothing)[1].tolist() == [0] * 100 + [NOISE] * 20


@pytest.mark.parametrize("strangers", [0, 1, 3])
def test_u21_copies_that_bf16_has_rounded_are_one_cluster_wherever_strangers_stand(strangers: int) -> None:
    rng = np.random.default_rng(0)
    one = unit_rows(rng.normal(size=(1, 384)), 384)
    copies = unit_rows(one + 2e-4 * rng.normal(size=(60, 384)), 384)
    assert 1e-5 < 1.0 - (copies @ copies.T).min() < 1e-4  # two of them; each and the middle are half of it apart
    found = cluster_by_density(np.vstack([unit_rows(rng.normal(size=(strangers, 384)), 384), copies]), 5, nothing)[1]
    assert found.tolist() == [NOISE] * strangers + [0] * 60


def test_u21_groups_of_equal_points_are_clusters_from_the_smallest_size_on() -> None:
    points = unit_rows(np.random.default_rng(0).normal(size=(3, 64)), 64)
    assert same(cluster_by_density(np.repeat(points, 40, axis=0), 5, nothing)[1], np.repeat(np.arange(3), 40))
    for count, expected in ((4, NOISE), (5, 0)):
        assert cluster_by_density(np.repeat(points[:1], count, axis=0), 5, nothing)[1].tolist() == [expected] * count
    assert (cluster_by_density(np.repeat(points, 4, axis=0), 5, nothing)[1] == NOISE).all()
