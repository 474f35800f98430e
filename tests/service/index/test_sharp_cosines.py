import numpy as np
import pytest

from service.index.approximate import ApproximateIndex
from service.index.planner import KINDS, _hnsw, _ivf, held_out, measure
from service.index.segments import Segment
from service.index.vector_index import VectorIndex, View
from service.points import Vector, unit_rows


def units(count: int, dimension: int, seed: int = 0) -> Vector:
    return unit_rows(np.random.default_rng(seed).normal(size=(count, dimension)), dimension)


def turned(vectors: Vector, cosine: float) -> Vector:
    """Return unit vectors that have this cosine to those given."""
    other = units(len(vectors), vectors.shape[1], seed=9).astype(np.float64)
    given = vectors.astype(np.float64)
    other -= (other * given).sum(axis=1, keepdims=True) * given
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    return unit_rows(cosine * given + np.sqrt(1 - cosine**2) * other, vectors.shape[1])


def view_of(*parts: Vector) -> View:
    vectors = np.concatenate(parts)
    index = VectorIndex(vectors.shape[1])
    index.add(np.arange(len(vectors)), vectors)
    return index.view()


@pytest.mark.parametrize("dimension", [2, 3, 32, 384, 1000, 1536])
@pytest.mark.parametrize("queries", [1, 60])  # one by one, and as a matrix product
def test_u18_equal_vectors_score_exactly_1_and_opposite_ones_exactly_minus_1(dimension: int, queries: int) -> None:
    vectors = units(60, dimension)
    view = view_of(vectors, vectors, -vectors)
    for start in range(0, 60, queries):
        scores, rows = view.search(vectors[start : start + queries], 180)
        asked = np.arange(start, start + queries)[:, None]
        np.testing.assert_array_equal(rows[:, :2], np.hstack([asked, asked + 60]))
        assert (scores[:, :2] == 1.0).all()
        assert (scores[:, -1] == -1.0).all()
        assert (np.abs(scores) <= 1.0).all()
        assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("dimension", [16, 384, 1536])
@pytest.mark.parametrize("distance", [1e-7, 2e-7, 1e-6, 1e-5, 1e-4, 1e-3])
def test_u18_a_vector_that_differs_stays_below_1_by_what_it_differs(dimension: int, distance: float) -> None:
    vectors = units(40, dimension)
    close = turned(vectors, 1.0 - distance)
    scores, rows = view_of(close, vectors).search(vectors, 2)
    np.testing.assert_array_equal(rows, np.arange(40)[:, None] + [40, 0])  # the copy first, though it came last
    assert (scores[:, 0] == 1.0).all()
    assert (scores[:, 1] < 1.0).all()
    true = 1.0 - 0.5 * ((vectors.astype(np.float64) - close) ** 2).sum(axis=1)
    np.testing.assert_allclose(scores[:, 1], true, atol=1.2e-7 if distance <= 1e-5 else 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_u18_an_approximate_index_scores_copies_as_an_exact_one_does(kind: str) -> None:
    vectors = units(6000, 32)
    index = _hnsw(vectors) if kind == "hnsw" else _ivf(vectors)
    held = held_out(len(vectors))
    index.add(np.delete(vectors, held, axis=0))
    effort = measure(kind, index, len(vectors), vectors, held)  # type: ignore[arg-type]  # one of KINDS
    assert effort is not None
    index.add(vectors[held])
    built = VectorIndex(32)
    main = Segment(vectors, np.arange(6000), 6000, approximate=ApproximateIndex(index, 6000, effort), fixed=True)
    built.start_from(main, None)
    built.add(np.arange(6000, 6100), vectors[:100])  # the copies are in the tail
    scores, rows = built.view().search(vectors[:100], 2)
    there = rows[:, 0] == np.arange(100)  # those that the index found, which is measured elsewhere
    assert np.count_nonzero(there) > 90
    np.testing.assert_array_equal(rows[there, 1], np.arange(6000, 6100)[there])
    assert (scores[there] == 1.0).all()
    alone, _ = built.view().search(vectors[:1], 2, exact=True)
    assert alone.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("limit", [1, 10])
def test_u18_copies_come_before_any_number_of_near_vectors(limit: int) -> None:
    vectors = units(1, 384)
    near = unit_rows(vectors + np.random.default_rng(1).normal(size=(300, 384)) * 2e-5, 384)
    assert (near @ vectors[0] >= np.float32(1.0)).sum() > 10  # as float32 has it
    scores, rows = view_of(near, np.repeat(vectors, 10, axis=0)).search(vectors, limit)
    assert (scores == 1.0).all()
    assert rows.tolist() == [list(range(300, 300 + limit))]
