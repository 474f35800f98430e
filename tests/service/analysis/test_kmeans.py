import numpy as np
import numpy.typing as npt
import pytest
from sklearn.cluster import KMeans

from service.analysis import kmeans
from service.analysis.centroids import nearest, reaching_everywhere
from service.analysis.kmeans import train
from service.errors import JobCancelled
from service.points import Vector, unit_rows

D, GROUPS, EACH = 16, 4, 30


def nothing(_: float) -> None:
    """Take no notice of progress."""


def blobs() -> tuple[Vector, npt.NDArray[np.int64]]:
    """Return unit vectors [B, D] in well-separated groups, and the group of each."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(GROUPS), EACH)
    return unit_rows(5 * np.eye(D)[truth] + 0.3 * rng.normal(size=(len(truth), D)), D), truth


def noise(count: int, seed: int = 1) -> Vector:
    return unit_rows(np.random.default_rng(seed).normal(size=(count, D)), D)


def partition(assigned: npt.NDArray[np.int64]) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(assigned == c).tolist()) for c in np.unique(assigned)}


@pytest.mark.parametrize("seed", range(5))
def test_separated_groups_are_recovered_from_every_seed(seed: int) -> None:
    units, truth = blobs()
    centroids = train(units, GROUPS, seed, nothing)
    assigned, similarity = nearest(centroids, units)
    assert partition(assigned) == partition(truth)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(similarity, (units * centroids[assigned]).sum(axis=1), atol=1e-5)
    for c in range(GROUPS):
        mean = units[assigned == c].mean(axis=0)
        np.testing.assert_allclose(centroids[c], mean / np.linalg.norm(mean), atol=1e-5)


def test_one_seed_gives_one_answer_and_another_seed_another() -> None:
    x = noise(300)
    first, second, other = (train(x, 10, seed, nothing) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_the_groups_are_as_tight_as_those_of_scikit_learn() -> None:
    # on unit vectors the squared distance is 2 - 2 cosine, so that k-means there has nearly the same optimum
    x = noise(2000, seed=2)
    mine = np.mean([1 - nearest(train(x, 20, seed, nothing), x)[1].mean() for seed in range(3)])
    theirs = []
    for seed in range(3):
        centres = KMeans(20, n_init=1, random_state=seed).fit(x).cluster_centers_
        theirs.append(1 - nearest(unit_rows(centres, D), x)[1].mean())
    assert mine <= 1.01 * np.mean(theirs)


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(300)
    whole = train(x, 7, 0, nothing)
    monkeypatch.setattr(kmeans, "BLOCK", 64)
    np.testing.assert_allclose(train(x, 7, 0, nothing), whole, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_equal_vectors_make_fewer_centroids(count: int) -> None:
    x = unit_rows(np.repeat(np.eye(D)[:2], 3, axis=0)[:count], D)
    assert len(train(x, 5, 0, nothing)) == len(np.unique(x, axis=0))


def test_progress_goes_from_0_to_1_and_stops_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans, "BLOCK", 64)
    steps: list[float] = []
    train(noise(300), 7, 0, steps.append)
    assert steps == sorted(steps)
    assert steps[0] < 0.1
    assert steps[-1] == 1.0

    def stop(share: float) -> None:
        if share > 0.5:
            raise JobCancelled

    with pytest.raises(JobCancelled):
        train(noise(300), 7, 0, stop)


def test_a_centroid_that_reaches_everywhere_takes_its_opposite() -> None:
    x = noise(1)
    clusters, similarity = reaching_everywhere(x).assign(-x)
    assert (clusters.tolist(), similarity.tolist()) == ([0], [pytest.approx(-1)])
