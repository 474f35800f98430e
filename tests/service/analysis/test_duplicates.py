import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.analysis import duplicates
from service.analysis.duplicates import Duplicates, find_duplicates
from service.analysis.point_set import PointSet
from service.errors import JobCancelled
from service.index.vector_index import VectorIndex
from service.points import unit_rows

D = 8


def nothing(_: float) -> None:
    """Take no notice of progress."""


def point_set_of(vectors: npt.ArrayLike, labels: list[str | None] | None = None, gaps: int = 3) -> PointSet:
    """Return a point set of vectors [B, D] whose rows have gaps, some of them by deletion."""
    units = unit_rows(vectors, np.shape(vectors)[1])
    index = VectorIndex(units.shape[1])
    rows = np.arange(1, gaps * len(units) + 1)
    index.add(rows, np.repeat(units, gaps, axis=0))
    kept = rows[::gaps]
    index.remove(np.setdiff1d(rows, kept))
    names = tuple(sorted({label for label in labels or [] if label is not None}))
    numbers = [-1 if label is None else names.index(label) for label in labels or [None] * len(units)]
    return PointSet(kept, np.array(numbers), names, index.view())


def by_hand(
    units: npt.NDArray[np.float64], threshold: float, pair: npt.NDArray[np.bool_]
) -> dict[frozenset[int], float]:
    """Return each group of positions and its score, by looking at all pairs."""
    cosines = np.where(pair, units @ units.T, -np.inf)
    np.fill_diagonal(cosines, -np.inf)
    above = cosines >= threshold
    group = list(range(len(units)))
    for i, j in zip(*np.nonzero(above), strict=True):
        group = [group[i] if g == group[j] else g for g in group]
    groups = {}
    for number in set(group):
        members = [i for i, g in enumerate(group) if g == number]
        if len(members) > 1:
            nearest = np.where(above, cosines, -np.inf).max(axis=1)
            groups[frozenset(members)] = float(nearest[members].min())
    return groups


def as_sets(found: Duplicates, point_set: PointSet) -> dict[frozenset[int], float]:
    return {frozenset(np.searchsorted(point_set.rows, g.rows).tolist()): g.score for g in found.groups}


def clumps(seed: int, count: int) -> npt.NDArray[np.float64]:
    """Return vectors [B, D] of which many are near to one another at all scales, and some equal."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, D))
    for i in range(1, count):
        if rng.random() < 0.6:
            x[i] = x[rng.integers(i)] + rng.choice([0, 0.02, 0.1, 0.4]) * rng.normal(size=D)
    return x


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(2, duplicates.LISTED), st.sampled_from([0.5, 0.9, 0.95, 0.99]), st.booleans()
)
def test_groups_are_those_that_all_pairs_make(seed: int, count: int, threshold: float, across: bool) -> None:
    point_set = point_set_of(clumps(seed, count))
    units = point_set.vectors().astype(np.float64)
    pair = np.ones((count, count), np.bool_)
    sides = None
    if across:
        side = np.random.default_rng(seed).integers(3, size=count)  # a third on neither side
        pair = (side[:, None] == 0) & (side == 1)
        pair |= pair.T
        sides = point_set.rows[side == 0], point_set.rows[side == 1]
    found = find_duplicates(point_set, threshold, 1000, nothing, sides=sides)
    wanted = by_hand(units, threshold - 1e-6, pair)
    mine = as_sets(found, point_set)
    assert mine.keys() == wanted.keys()
    for members, score in wanted.items():
        assert mine[members] == pytest.approx(score, abs=1e-5)
    assert found.total == len(wanted)
    assert found.duplicates == sum(map(len, wanted))
    assert found.capped == 0
    assert [g.size for g in found.groups] == sorted((len(m) for m in wanted), reverse=True)


def test_pairs_are_joined_in_any_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    point_set = point_set_of(clumps(3, 200))
    whole = find_duplicates(point_set, 0.9, 1000, nothing)
    monkeypatch.setattr(duplicates, "PENDING_PAIRS", 10)
    in_parts = find_duplicates(point_set, 0.9, 1000, nothing)
    assert as_sets(in_parts, point_set) == as_sets(whole, point_set)
    assert len(whole.groups) > 3


def test_equal_vectors_are_found_at_a_threshold_of_one_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 384))
    point_set = point_set_of(np.vstack([x, 7 * x, x[:1], x[:10] + 0.01 * rng.normal(size=(10, 384))]))
    assert (np.diag(point_set.vectors() @ point_set.vectors().T) < 1).any()  # what rounding does to some of them
    found = find_duplicates(point_set, 1.0, 1000, nothing)
    assert as_sets(found, point_set).keys() == {
        frozenset({0, 100, 200}),
        *(frozenset({i, 100 + i}) for i in range(1, 100)),
    }
    assert all(g.score == pytest.approx(1) and g.score <= 1 for g in found.groups)


def test_a_chain_longer_than_any_neighbourhood_is_one_group() -> None:
    angles = np.linspace(0, np.pi / 2, 400)
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    point_set = point_set_of(chain)
    found = find_duplicates(point_set, float(np.cos(angles[1])) - 1e-7, 10, nothing)
    assert [g.size for g in found.groups] == [400]
    assert len(found.groups[0].rows) == duplicates.LISTED
    assert found.groups[0].rows.tolist() == point_set.rows[: duplicates.LISTED].tolist()


@pytest.mark.parametrize(("copies", "capped"), [(32, 0), (33, 33)])
def test_points_with_as_many_duplicates_as_are_looked_at_are_counted(
    monkeypatch: pytest.MonkeyPatch, copies: int, capped: int
) -> None:
    monkeypatch.setattr(duplicates, "MOST_K", 32)
    rng = np.random.default_rng(0)
    x = np.vstack([np.ones((copies, D)), rng.normal(size=(30, D))])
    found = find_duplicates(point_set_of(x), 0.999, 10, nothing)
    assert (found.capped, [g.size for g in found.groups]) == (capped, [copies])


def test_few_groups_are_listed_and_all_are_counted() -> None:
    x = np.vstack([np.repeat(np.eye(D)[:1], 4, axis=0), np.repeat(np.eye(D)[1:6], 2, axis=0)])
    x[4] += 0.1 * np.eye(D)[7]  # the least similar of the pairs
    labels = ["a", "a", "b", None, *(["c"] * 10)]
    found = find_duplicates(point_set_of(x, labels), 0.9, 2, nothing)
    assert [(g.size, g.labels) for g in found.groups] == [(4, {"a": 2, "b": 1}), (2, {"c": 2})]
    assert (found.total, found.duplicates) == (6, 14)
    every = find_duplicates(point_set_of(x, labels), 0.9, 100, nothing)
    assert every.groups[-1].score == pytest.approx(1 / np.sqrt(1.01))


@pytest.mark.parametrize("count", [1, 2])
def test_there_may_be_nothing_to_find(count: int) -> None:
    point_set = point_set_of(np.eye(D)[:count])
    empty = point_set.rows[:0]
    for sides in (None, (point_set.rows, empty), (empty, empty), (np.array([10**6]), point_set.rows)):
        found = find_duplicates(point_set, 0.5, 10, nothing, sides=sides)
        assert (found.groups, found.total, found.duplicates, found.capped) == ([], 0, 0, 0)


def test_progress_grows_and_stops_the_work() -> None:
    point_set = point_set_of(clumps(0, 600))
    steps: list[float] = []
    find_duplicates(point_set, 0.9, 10, steps.append)
    assert steps == sorted(steps)
    assert len(steps) > 3

    def stop(share: float) -> None:
        if share > 0.1:
            raise JobCancelled

    with pytest.raises(JobCancelled):
        find_duplicates(point_set, 0.9, 10, stop)
