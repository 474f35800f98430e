import threading
from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest

from service.index.vector_index import NO_ROW, Rows, VectorIndex
from service.points import Vector, unit_rows

D = 6


@pytest.fixture(autouse=True)
def small_segments() -> Iterator[None]:
    with patch("service.index.vector_index.SEGMENT_BYTES", 4 * D * 16):  # 16 vectors to a segment
        yield


def random_units(count: int, seed: int = 0) -> Vector:
    return unit_rows(np.random.default_rng(seed).normal(size=(count, D)), D)


def rows(*numbers: int) -> Rows:
    return np.array(numbers, np.int64)


def oracle(queries: Vector, bank: Vector, bank_rows: Rows, k: int) -> Rows:
    order = np.argsort(-(queries @ bank.T), axis=1, kind="stable")[:, :k]
    return bank_rows[order]


def test_a_search_over_many_segments_equals_brute_force() -> None:
    index, bank = VectorIndex(D), random_units(100)
    for start in range(0, 100, 7):
        index.add(np.arange(start, min(start + 7, 100)), bank[start : start + 7])
    queries = random_units(40, seed=1)
    scores, found = index.view().search(queries, 10)
    assert len(index.view().segments) == 7
    np.testing.assert_array_equal(found, oracle(queries, bank, np.arange(100), 10))
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ bank.T, found, axis=1), atol=1e-6)


@pytest.mark.parametrize("queries", [1, 50])  # one by one, and as a matrix product
def test_a_deleted_vector_is_never_found_and_all_others_are(queries: int) -> None:
    index, bank = VectorIndex(D), random_units(100)
    index.add(np.arange(100), bank)
    rng, alive = np.random.default_rng(2), np.ones(100, bool)
    for _ in range(20):
        gone = np.sort(rng.choice(100, 5, replace=False))
        index.remove(gone)
        alive[gone] = False
        view, q = index.view(), random_units(queries, seed=3)
        kept = np.flatnonzero(alive)
        assert len(view) == len(kept)
        _, found = view.search(q, 1000)
        np.testing.assert_array_equal(found, oracle(q, bank[kept], kept, 1000))
        np.testing.assert_array_equal(view.rows(), kept)
        np.testing.assert_array_equal(view.vectors(kept), bank[kept])
    index.remove(np.arange(100))
    assert len(index.view()) == 0
    assert index.view().segments == ()


def test_segments_that_were_emptied_are_joined() -> None:
    index = VectorIndex(D)
    index.add(np.arange(160), random_units(160))
    for start in range(10):
        index.remove(np.arange(start, 150, 11))
    view = index.view()
    assert len(view.segments) < 10
    assert all(s.dead <= 0.2 * s.count for s in view.segments)


def test_vectors_can_be_added_after_tombstones() -> None:
    index, bank = VectorIndex(D), random_units(12)
    index.add(np.arange(10), bank[:10])
    index.remove(rows(3))
    index.add(rows(10, 11), bank[10:])
    assert index.view().rows().tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
    assert index.view().search(bank[11:], 1)[1].tolist() == [[11]]


def test_a_search_is_confined_to_the_rows_that_are_allowed() -> None:
    index, bank = VectorIndex(D), random_units(100)
    index.add(np.arange(100), bank)
    index.remove(rows(20))
    allowed = rows(5, 20, 40, 41, 99, 4000)
    scores, found = index.view().search(bank[:30], 10, allowed)
    there = rows(5, 40, 41, 99)
    np.testing.assert_array_equal(found[:, :4], oracle(bank[:30], bank[there], there, 4))
    assert (found[:, 4:] == NO_ROW).all()
    assert np.isneginf(scores[:, 4:]).all()
    assert index.view().search(bank[:3], 10, rows())[1].shape == (3, 0)


def test_k_is_capped_and_an_empty_index_finds_nothing() -> None:
    index, bank = VectorIndex(D), random_units(3)
    assert index.view().search(bank, 5)[1].shape == (3, 0)
    index.add(rows(7, 8, 9), bank)
    assert index.view().search(bank, 10**9)[1].shape == (3, 3)
    assert index.view().search(bank, 0)[1].shape == (3, 0)
    assert index.view().search(bank[:0], 2)[1].shape[0] == 0


def test_equal_vectors_are_found_in_the_order_of_their_rows() -> None:
    index = VectorIndex(D)
    index.add(np.arange(40), np.repeat(random_units(1), 40, axis=0))
    assert index.view().search(random_units(1), 40)[1].tolist() == [list(range(40))]


def test_a_view_stays_as_it_was_whatever_is_written() -> None:
    index, bank = VectorIndex(D), random_units(200)
    index.add(np.arange(50), bank[:50])
    view = index.view()
    before = view.search(bank, 50)
    index.remove(np.arange(0, 50, 2))
    index.add(np.arange(50, 200), bank[50:])
    index.remove(np.arange(50))
    after = view.search(bank, 50)
    np.testing.assert_array_equal(before[1], after[1])
    np.testing.assert_array_equal(before[0], after[0])


def test_searches_beside_a_writer_find_what_was_there_before_they_began() -> None:
    index, bank = VectorIndex(D), random_units(3000)
    added, done, wrong = [0], threading.Event(), []

    def search() -> None:
        while not done.is_set():
            least = added[0]
            view = index.view()
            if least and view.search(bank[least - 1 : least], 1)[1][0, 0] != least - 1:
                wrong.append(least)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for start in range(0, 3000, 10):
        index.add(np.arange(start, start + 10), bank[start : start + 10])
        added[0] = start + 10
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong
