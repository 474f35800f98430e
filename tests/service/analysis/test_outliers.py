import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from service.analysis.outliers import find_outliers
from service.analysis.point_set import PointSet
from service.errors import JobCancelled
from service.index.vector_index import VectorIndex
from service.points import unit_rows

D = 16


def nothing(_: float) -> None:
    """Take no notice of progress."""


def point_set_of(vectors: np.typing.ArrayLike) -> PointSet:
    units = unit_rows(vectors, D)
    index = VectorIndex(D)
    rows = np.arange(5, 5 + len(units))
    index.add(rows, units)
    return PointSet(rows, np.full(len(rows), -1), (), index.view())


@pytest.mark.parametrize("k", [1, 5, 1000])
def test_scores_are_the_mean_distances_that_scikit_learn_measures(k: int) -> None:
    point_set = point_set_of(np.random.default_rng(0).normal(size=(300, D)))
    units = point_set.vectors().astype(np.float64)
    most = min(k, 299)
    distances = NearestNeighbors(n_neighbors=most, metric="cosine").fit(units).kneighbors()[0]
    wanted = distances.mean(axis=1)
    found = find_outliers(point_set, k, 300, nothing)
    assert found.scores.tolist() == sorted(found.scores, reverse=True)
    np.testing.assert_allclose(found.scores, wanted[found.rows - 5], atol=1e-6)
    assert sorted(found.rows) == point_set.rows.tolist()
    assert find_outliers(point_set, k, 7, nothing).rows.tolist() == found.rows[:7].tolist()


def test_planted_strangers_come_first_though_there_are_several_of_a_kind() -> None:
    rng = np.random.default_rng(0)
    crowd = np.repeat(np.eye(D)[:3], 100, axis=0) + 0.1 * rng.normal(size=(300, D))
    alone = -np.eye(D)[4:7]
    trio = np.eye(D)[10] + 0.01 * rng.normal(size=(3, D))
    point_set = point_set_of(np.vstack([crowd, alone, trio]))
    found = find_outliers(point_set, 10, 8, nothing)
    assert {*found.rows[:6].tolist()} == {*point_set.rows[300:].tolist()}
    assert found.scores[5] > 3 * found.scores[6]


def test_points_that_are_all_equal_score_nothing() -> None:
    assert find_outliers(point_set_of(np.ones((20, D))), 5, 3, nothing).scores == pytest.approx([0, 0, 0], abs=1e-6)


def test_a_point_without_neighbours_has_no_score_and_two_have_one() -> None:
    assert len(find_outliers(point_set_of(np.ones((1, D))), 5, 3, nothing).rows) == 0
    found = find_outliers(point_set_of([np.eye(D)[0], -np.eye(D)[0]]), 5, 3, nothing)
    assert found.scores == pytest.approx([2, 2])


def test_it_can_be_stopped() -> None:
    def stop(share: float) -> None:
        raise JobCancelled

    with pytest.raises(JobCancelled):
        find_outliers(point_set_of(np.random.default_rng(0).normal(size=(30, D))), 5, 3, stop)
