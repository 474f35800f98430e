import numpy as np
import pytest
from sklearn.datasets import load_digits

from service.analysis.choose_k import choose_k, simplified_silhouette
from service.errors import JobCancelled
from service.points import Vector, unit_rows


def nothing(_: float) -> None:
    """Take no notice of progress."""


def groups(k: int, each: int, dimension: int, spread: float, seed: int = 0) -> Vector:
    """Return unit vectors [k * each, D] around k directions; noise of length `spread` about vectors of length 1."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, dimension))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    around = spread * rng.normal(size=(k * each, dimension)) / np.sqrt(dimension)
    return unit_rows(np.repeat(centres, each, axis=0) + around, dimension)


@pytest.mark.parametrize(
    ("k", "each", "spread"), [(2, 40, 0.5), (5, 80, 1.0), (12, 60, 1.0), (12, 60, 1.5), (30, 40, 1.0)]
)
def test_the_number_of_clear_groups_is_recommended(k: int, each: int, spread: float) -> None:
    found = choose_k(groups(k, each, 48, spread), 0, nothing)
    assert abs(found.k - k) <= 0.1 * k


def test_ten_or_so_groups_are_seen_in_handwritten_digits() -> None:
    pixels = load_digits().data
    assert 8 <= choose_k(unit_rows(pixels, pixels.shape[1]), 0, nothing).k <= 13


def test_the_sweep_keeps_every_k_it_tried_and_the_best_is_the_answer() -> None:
    found = choose_k(groups(6, 50, 24, 1.0), 0, nothing)
    ks = [k for k, _ in found.scores]
    assert ks == sorted(set(ks))
    assert {2, 3, 4, 6, 9, 30} <= {*ks}  # 300 points: 10 to each of 30 clusters
    assert max(ks) == 30
    assert found.k == max(found.scores, key=lambda item: item[1])[0]
    assert all(-1 <= score <= 1 for _, score in found.scores)


def test_one_seed_gives_one_sweep() -> None:
    x = groups(6, 30, 24, 2.0)
    assert choose_k(x, 3, nothing) == choose_k(x, 3, nothing)


def test_the_silhouette_is_what_its_definition_says() -> None:
    rng = np.random.default_rng(0)
    x, centroids = unit_rows(rng.normal(size=(50, 8)), 8), unit_rows(rng.normal(size=(4, 8)), 8)
    distances = 1 - x.astype(np.float64) @ centroids.astype(np.float64).T
    nearest = distances.argmin(axis=1)
    scores = []
    for i, row in enumerate(distances):
        a, b = sorted(row)[:2]
        scores.append(0 if np.sum(nearest == nearest[i]) == 1 else (b - a) / b)
    assert simplified_silhouette(x, centroids) == pytest.approx(np.mean(scores), abs=1e-6)


def test_one_alone_in_its_cluster_adds_nothing() -> None:
    x = unit_rows(np.eye(5), 5)
    assert simplified_silhouette(x, x) == 0
    assert simplified_silhouette(x, x[:1]) == 0


@pytest.mark.parametrize(("count", "tried"), [(1, []), (2, []), (5, []), (6, [2]), (9, [2, 3])])
def test_few_points_are_tried_in_few_clusters(count: int, tried: list[int]) -> None:
    found = choose_k(unit_rows(np.random.default_rng(0).normal(size=(count, 8)), 8), 0, nothing)
    assert [k for k, _ in found.scores] == tried
    assert found.k in (tried or [1])


def test_points_that_are_all_equal_are_answered() -> None:
    assert choose_k(unit_rows(np.ones((40, 8)), 8), 0, nothing).k == 2


def test_the_sweep_tells_its_progress_and_can_be_stopped() -> None:
    steps: list[float] = []
    choose_k(groups(5, 40, 16, 1.0), 0, steps.append)
    assert steps == sorted(steps)
    assert 0 <= steps[0] <= steps[-1] <= 1

    def stop(share: float) -> None:
        if share > 0.3:
            raise JobCancelled

    with pytest.raises(JobCancelled):
        choose_k(groups(5, 40, 16, 1.0), 0, stop)
