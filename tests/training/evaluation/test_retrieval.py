from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from training.evaluation.retrieval import score_retrieval


def unit(rows: int, width: int, seed: int) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def slow(bank: NDArray, bank_labels: NDArray, queries: NDArray, query_labels: NDArray) -> tuple[list[float], float]:
    """Word for word, with Python's stable sort: equal cosines stay in the order of rows."""
    first, precisions = [], []
    for query, label in zip(queries, query_labels, strict=True):
        cosines = (query[None] @ bank.T)[0]
        ranking = sorted(range(len(bank)), key=lambda row: -cosines[row])
        ranks = [rank for rank, row in enumerate(ranking, start=1) if bank_labels[row] == label]
        first.append(ranks[0] if ranks else np.inf)
        precisions.append(np.mean([(n + 1) / rank for n, rank in enumerate(ranks)]) if ranks else 0.0)
    return [float(np.mean(np.array(first) <= k)) for k in (1, 5, 10)], float(np.mean(precisions))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.booleans())
def test_the_scores_are_those_of_the_definition_also_where_cosines_are_equal(seed: int, size: int, ties: bool) -> None:
    generator = np.random.default_rng(seed)
    if ties:  # exact numbers, with many equal cosines, zeros of both signs and negative ones
        bank, queries = (np.eye(3, dtype=np.float32)[generator.integers(0, 3, n)] for n in (size, 9))
        bank *= generator.choice(np.array([1, -1], np.float32), (size, 1))
    else:
        bank, queries = unit(size, 5, seed), unit(9, 5, seed + 1)
    bank_labels, query_labels = generator.integers(0, 3, size), generator.integers(0, 4, 9)
    recall, precision = slow(bank, bank_labels, queries, query_labels)
    found = score_retrieval(bank, bank_labels, queries, query_labels)
    assert list(found.recall.values()) == pytest.approx(recall)
    assert found.mean_average_precision == pytest.approx(precision, rel=1e-12)


def test_the_average_precision_is_that_of_scikit_learn() -> None:
    bank, queries = unit(300, 8, 0), unit(20, 8, 1)
    bank_labels, query_labels = np.arange(300) % 7, np.arange(20) % 7
    expected = [
        average_precision_score(bank_labels == label, bank @ q) for q, label in zip(queries, query_labels, strict=True)
    ]
    found = score_retrieval(bank, bank_labels, queries, query_labels)
    assert found.mean_average_precision == pytest.approx(np.mean(expected), rel=1e-9)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = unit(50, 6, 0), np.arange(50) % 4, unit(23, 6, 1), np.arange(23) % 4
    whole = score_retrieval(*data)
    monkeypatch.setattr("training.evaluation.retrieval.BLOCK_SCORES", 120)  # two queries at once
    assert score_retrieval(*data) == whole


def test_a_perfect_bank_scores_one_and_a_class_that_it_lacks_zero() -> None:
    bank = np.eye(3, dtype=np.float32)[np.arange(30) % 3]
    labels = np.arange(30) % 3
    perfect = score_retrieval(bank, labels, bank[:3], labels[:3])
    assert (perfect.recall, perfect.mean_average_precision) == ({"1": 1.0, "5": 1.0, "10": 1.0}, 1.0)
    nothing = score_retrieval(bank, labels, bank[:3], np.full(3, 7))
    assert (nothing.recall, nothing.mean_average_precision) == ({"1": 0.0, "5": 0.0, "10": 0.0}, 0.0)
