from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from backbone.vote import SAME, TEMPERATURE, Weighting, knn_accuracy, nearest, vote, weigh


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


def softmax(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.exp((1 - distances) / TEMPERATURE)
    return weights


ORACLES: list[tuple[Weighting, str | Callable[..., Any]]] = [
    ("softmax", softmax),
    ("distance", "distance"),
    ("uniform", "uniform"),
]


@pytest.mark.parametrize(("weighting", "oracle"), ORACLES)
@pytest.mark.parametrize("k", [1, 4, 20, 100])
def test_each_weighting_gives_the_probabilities_of_scikit_learn(
    weighting: Weighting, oracle: str | Callable[..., Any], k: int
) -> None:
    data = load_digits()
    x = data.data / np.linalg.norm(data.data, axis=1, keepdims=True)
    # every image twice, under labels of which half are wrong, and asked for again: neighbours at distance 0, and equal sums of votes
    bank, queries = np.repeat(x[:400], 2, axis=0), x[300:600]
    labels = np.repeat(data.target[:400], 2)
    labels[1::2] = np.random.default_rng(0).integers(0, 10, 400)
    model = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=oracle).fit(bank, labels)
    scores, rows = nearest(queries.astype(np.float32), bank.astype(np.float32), k)
    if k == 1:  # one of two equal neighbours: which one is a matter of taste
        rows = model.kneighbors(queries, return_distance=False)
    found = vote(scores, labels[rows], 10, weighting=weighting)
    # cosines in float32 (1e-7) become weights through 1 / 0.07, or through 1 / d with d from 0.002 on
    expected = model.predict_proba(queries)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    first, second = -np.sort(-expected, axis=1)[:, :2].T
    # scikit-learn's float64 finds some copies at a distance of 1e-16, so that others, at 0.01, break their tie by a 1e-14th of the vote
    clear = first - second > (1e-9 if weighting == "distance" else -1)
    assert np.count_nonzero(clear) > 100
    assert np.array_equal(found.argmax(axis=1)[clear], model.predict(queries)[clear])


@pytest.mark.parametrize("weighting", ["softmax", "distance", "uniform"])
def test_the_sums_of_votes_are_the_same_whatever_else_is_in_the_batch(weighting: Weighting) -> None:
    generator = np.random.default_rng(0)
    scores, labels = -np.sort(-generator.uniform(-1, 1, (40, 15)), axis=1), generator.integers(0, 6, (40, 15))
    scores[generator.random((40, 15)) < 0.2] = -np.inf
    together = vote(scores, labels, 6, weighting=weighting)
    alone = [vote(scores[i : i + 1], labels[i : i + 1], 6, weighting=weighting)[0] for i in range(40)]
    assert np.array_equal(together, alone)
    np.testing.assert_allclose(together.sum(axis=1), 1.0)


@pytest.mark.parametrize("weighting", ["softmax", "distance", "uniform"])
def test_whoever_is_missing_has_no_weight(weighting: Weighting) -> None:
    scores = np.array([[0.9, 0.1, -np.inf], [-np.inf] * 3])
    weights = weigh(scores, weighting=weighting)
    assert weights[0, :2].all()
    assert not weights[0, 2]
    assert not weights[1].any()
    assert vote(scores, np.array([[0, 1, 7], [7, 7, 7]]), 2, weighting=weighting)[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("distance", "alone"), [(0.0, True), (SAME * 0.9, True), (SAME * 1.1, False)])
def test_only_neighbours_equal_to_the_query_vote_where_there_are_any(distance: float, alone: bool) -> None:
    weights = weigh(np.array([[1.0 - distance, 1.0 - distance, 0.5]]), weighting="distance")[0]
    assert weights.tolist() == ([1.0, 1.0, 0.0] if alone else pytest.approx([1 / distance, 1 / distance, 2.0]))


def test_a_cosine_that_rounding_put_above_one_counts_as_one() -> None:
    assert weigh(np.array([[1.0 + 2e-7, 0.5]]), weighting="distance").tolist() == [[1.0, 0.0]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["softmax", "distance", "uniform"]))
def test_a_balanced_vote_divides_each_class_by_its_size(seed: int, weighting: Weighting) -> None:
    generator = np.random.default_rng(seed)
    scores, labels = generator.uniform(-1, 0.99, (4, 9)), generator.integers(0, 3, (4, 9))
    sizes = np.array([1, 10, 1000])
    plain = vote(scores, labels, 3, weighting=weighting)
    expected = plain / sizes / (plain / sizes).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(vote(scores, labels, 3, weighting=weighting, sizes=sizes[labels]), expected, rtol=1e-9)
    even = np.full_like(labels, 7)
    np.testing.assert_allclose(vote(scores, labels, 3, weighting=weighting, sizes=even), plain, rtol=1e-9)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-9])
def test_at_the_smallest_temperatures_the_nearest_decides(temperature: float) -> None:
    scores = np.array([[0.9, 0.9, 0.8, -np.inf]])
    assert vote(scores, np.array([[0, 1, 2, 2]]), 3, temperature).tolist() == [[0.5, 0.5, 0.0]]
