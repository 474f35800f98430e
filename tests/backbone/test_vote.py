from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from backbone.vote import knn_accuracy, nearest, vote


def unit(rows: int, width: int, seed: int) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def slow_vote(scores: list[float], labels: list[int], classes: int, temperature: float) -> list[float]:
    """Word for word: each neighbour adds exp(cosine / temperature) to its class; then normalise."""
    votes = [0.0] * classes
    for score, label in zip(scores, labels, strict=True):
        votes[label] += math.exp(score / temperature)
    return [value / sum(votes) for value in votes]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([0.02, 0.07, 1.0]))
def test_the_vote_is_the_paper_s(seed: int, k: int, temperature: float) -> None:
    generator = np.random.default_rng(seed)
    scores, labels = generator.uniform(-1, 1, (3, k)), generator.integers(0, 4, (3, k))
    expected = [slow_vote(list(s), list(c), 4, temperature) for s, c in zip(scores, labels, strict=True)]
    np.testing.assert_allclose(vote(scores, labels, 4, temperature), expected, rtol=1e-9)


def test_missing_neighbours_do_not_vote_and_no_neighbour_gives_no_probability() -> None:
    scores = np.array([[0.5, -np.inf], [-np.inf, -np.inf]])
    assert vote(scores, np.array([[1, 0], [0, 0]]), 2).tolist() == [[0.0, 1.0], [0.0, 0.0]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.booleans())
def test_nearest_finds_what_a_full_sort_finds(seed: int, k: int, exclude_self: bool) -> None:
    bank = unit(30, 5, seed)
    queries = bank if exclude_self else unit(7, 5, seed + 1)
    similarity = queries @ bank.T
    if exclude_self:
        np.fill_diagonal(similarity, -np.inf)
    scores, rows = nearest(queries, bank, k, exclude_self=exclude_self)
    found = min(k, 30 - exclude_self)
    assert rows.shape == (len(queries), found)
    np.testing.assert_array_equal(scores, np.sort(similarity, axis=1)[:, ::-1][:, :found])
    np.testing.assert_array_equal(np.take_along_axis(similarity, rows, axis=1), scores)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_the_accuracy_is_that_of_scikit_learn_s_weighted_classifier(temperature: float) -> None:
    centres = unit(5, 16, 0)
    labels = np.arange(300) % 5
    vectors = centres[labels] + 0.6 * unit(300, 16, 1)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    oracle = KNeighborsClassifier(
        n_neighbors=20, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / temperature)
    ).fit(vectors[:200], labels[:200])
    expected = oracle.score(vectors[200:], labels[200:])
    found = knn_accuracy(vectors[:200], labels[:200], vectors[200:], labels[200:], 20, temperature)
    assert found == pytest.approx(expected, abs=1e-12)
