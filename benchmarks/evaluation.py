"""The scores of `dinodex eval` from cached vectors, beside scikit-learn on the same vectors.

python benchmarks/evaluation.py [TRAIN [VALIDATION]]
"""

from __future__ import annotations

import sys

import numpy as np
from machine import describe, median_seconds
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from training.evaluation.clusters import score_clustering
from training.evaluation.evaluation import NEIGHBOURS, score_neighbours
from training.evaluation.linear_probe import WEIGHT_DECAYS, score_linear
from training.evaluation.retrieval import score_retrieval

DIM, CLASSES = 384, 10


def main(train: int, validation: int) -> None:
    """Print each figure with its ratio to the peer of the same run."""
    print(describe())
    bank, queries = vectors(train, 0), vectors(validation, 1)
    times = {
        "kNN at k 10, 20, 100, 200": median_seconds(lambda: score_neighbours(*bank, *queries)),
        "linear probe, six penalties and the fit": median_seconds(lambda: score_linear(*bank, *queries)),
        "retrieval": median_seconds(lambda: score_retrieval(*bank, *queries)),
        "clusters": median_seconds(lambda: score_clustering(*queries)),
    }
    for what, time_s in times.items():
        print(f"{what}: {time_s:.2f} s")
    total = sum(times.values())
    print(f"all: {total:.2f} s, {(train + validation) / total:,.0f} images/s ({train:,} + {validation:,} x {DIM})")
    knn = median_seconds(lambda: sklearn_knn(bank, queries), runs=1)
    print(
        f"scikit-learn, KNeighborsClassifier at the same k: {knn:.2f} s, ratio {knn / times['kNN at k 10, 20, 100, 200']:.1f}"
    )
    probe = median_seconds(lambda: sklearn_probe(bank, queries), runs=1)
    ours = times["linear probe, six penalties and the fit"]
    print(f"scikit-learn, LogisticRegression with the same penalties: {probe:.2f} s, ratio {probe / ours:.1f}")


Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]


def vectors(count: int, seed: int) -> Labelled:
    """Draw unit vectors of classes that overlap, in directions of falling variance, as a network's are."""
    centres = np.random.default_rng(99).normal(size=(CLASSES, DIM)) * 0.1
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    x = centres[labels] + rng.normal(size=(count, DIM)) * np.linspace(1.5, 0.05, DIM)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def sklearn_knn(bank: Labelled, queries: Labelled) -> list[float]:
    """Fit and score a classifier for each k."""
    weights = {"weights": lambda distances: np.exp((1 - distances) / 0.07), "metric": "cosine"}
    return [KNeighborsClassifier(k, **weights).fit(*bank).score(*queries) for k in NEIGHBOURS]


def sklearn_probe(bank: Labelled, queries: Labelled) -> float:
    """Choose the penalty on a fifth of the bank, and fit all of it."""
    x, y = bank[0] - bank[0].mean(axis=0), bank[1]
    x /= np.sqrt(np.square(x).mean())
    cut = len(x) * 4 // 5
    chosen = max(WEIGHT_DECAYS, key=lambda decay: regression(decay, x[:cut], y[:cut]).score(x[cut:], y[cut:]))
    return float(regression(chosen, x, y).score(queries[0], queries[1]))


def regression(decay: float, x: NDArray[np.float32], y: NDArray[np.int64]) -> LogisticRegression:
    """Fit to the same objective and about the same tolerance."""
    return LogisticRegression(C=1 / (len(x) * decay), max_iter=1000, tol=1e-4).fit(x, y)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, int(sys.argv[2]) if len(sys.argv) > 2 else 2_000)
