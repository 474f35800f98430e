"""One vote in two places: what `dinodex eval` scores is what the service answers, and what scikit-learn's classifier does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from backbone.vote import TEMPERATURE, Weighting, nearest, vote
from service.analysis.leave_one_out import evaluate
from service.analysis.voting import Voting
from service.library.library import Collection, Library
from service.points import NewPoint, hash_vector
from training.evaluation.evaluation import NEIGHBOURS, score_neighbours

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
ORACLES: dict[Weighting, str | Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "softmax": lambda distances: np.exp((1 - distances) / TEMPERATURE),
    "distance": "distance",
    "uniform": "uniform",
}


def digits() -> tuple[Floats, Labels]:
    data = load_digits()
    x = data.data / np.linalg.norm(data.data, axis=1, keepdims=True)
    return x.astype(np.float32), data.target.astype(np.int64)


def twice(x: Floats, labels: Labels) -> tuple[Floats, Labels]:
    """Return every vector twice, the second time with a label by chance: neighbours tie, and often the classes do."""
    doubled = np.repeat(labels, 2)
    doubled[1::2] = np.random.default_rng(0).integers(0, 10, len(labels))
    return np.repeat(x, 2, axis=0), doubled


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "data", threads=1) as library:
        yield library


def fill(library: Library, x: Floats, labels: Labels) -> Collection:
    collection = library.create("digits", "f", x.shape[1])[0]
    numbered = enumerate(zip(x, labels.tolist(), strict=True))
    collection.put([NewPoint(f"{i:05}", hash_vector(v), v, str(label)) for i, (v, label) in numbered])
    return collection


def accuracy(collection: Collection, queries: Floats, truth: Labels, k: int, weighting: Weighting = "softmax") -> float:
    answers = collection.classify(queries, k, Voting(weighting=weighting), exact=True)
    return float(np.mean([answer.label == str(label) for answer, label in zip(answers, truth.tolist(), strict=True)]))


@pytest.mark.parametrize("ties", [False, True])
def test_the_service_is_as_accurate_as_eval_says(library: Library, ties: bool) -> None:
    x, labels = digits()
    bank = twice(x[:600], labels[:600]) if ties else (x[:1200], labels[:1200])
    queries, truth = x[1200:], labels[1200:]
    collection = fill(library, *bank)
    found = {str(k): accuracy(collection, queries, truth, k) for k in NEIGHBOURS}
    assert found == score_neighbours(*bank, queries, truth)
    assert all(0.5 < value < 1 for value in found.values())


@pytest.mark.parametrize("weighting", ["softmax", "distance", "uniform"])
@pytest.mark.parametrize("ties", [False, True])
def test_the_service_is_as_accurate_as_scikit_learn(library: Library, weighting: Weighting, ties: bool) -> None:
    x, labels = digits()
    bank = twice(x[:600], labels[:600]) if ties else (x[:1200], labels[:1200])
    queries, truth = x[1200:], labels[1200:]
    collection = fill(library, *bank)
    for k in (10, 20, 100):  # even: pairs of equal neighbours stay together
        model = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=ORACLES[weighting])
        assert accuracy(collection, queries, truth, k, weighting) == model.fit(*bank).score(queries, truth)


def test_leaving_one_out_agrees_with_eval_s_neighbours_and_with_scikit_learn(library: Library) -> None:
    x, labels = digits()
    x, labels = x[:900], labels[:900]
    ks = [1, 5, 10, 20, 100]
    scores, rows = nearest(x, x, max(ks), exclude_self=True)
    found = evaluate(fill(library, x, labels).point_set().labelled(), ks, Voting(), True, lambda _: None)
    for k in ks:
        by_vote = vote(scores[:, :k], labels[rows[:, :k]], 10).argmax(axis=1)
        assert found.accuracy[str(k)] == np.mean(by_vote == labels)
        model = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=ORACLES["softmax"]).fit(x, labels)
        assert found.accuracy[str(k)] == np.mean(model.predict(None) == labels)
