"""Clustering scores: do vectors fall into their classes by themselves? Clusters by cosine, compared with the labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import kmeans_plusplus
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from training.randomness import seed_of

RESTARTS = 10  # of k-means, the best of which counts: a single one often joins two classes and splits a third
MAX_ITERATIONS = 100  # of k-means; assignments settle after 10 to 50
BLOCK_SCORES = 2**24  # similarities to centres held at once: 64 MiB of float32

Labels = NDArray[np.int64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class ClusteringScores:
    """How well clusters, as many as there are classes, agree with the classes; see `score_clustering`."""

    nmi: float
    ari: float
    purity: float


def score_clustering(vectors: Vectors, labels: Labels, seed: int = 0) -> ClusteringScores:
    """Group unit vectors [n, D] into as many clusters as there are labels, without seeing them, and compare the two groupings.

    Returns:
        nmi: mutual information over the mean of both entropies; ari: agreement of pairs, adjusted so that chance gives 0; purity: the
        share of images that carry the most frequent label of their cluster.
    """
    clusters = spherical_kmeans(vectors, len(np.unique(labels)), seed)
    together = contingency_matrix(labels, clusters)
    return ClusteringScores(
        float(normalized_mutual_info_score(labels, clusters)),
        float(adjusted_rand_score(labels, clusters)),
        float(together.max(axis=0).sum() / len(labels)),
    )


def spherical_kmeans(vectors: Vectors, k: int, seed: int) -> Labels:
    """Return the cluster [n] of each unit vector [n, D]: k-means by cosine with unit centres (Dhillon & Modha 2001).

    Starts are drawn by k-means++ (Arthur & Vassilvitskii 2007); of `RESTARTS` the one with the largest total cosine is returned.
    """
    runs = (_one_run(vectors, k, seed_of("k-means", seed, restart) % 2**32) for restart in range(RESTARTS))
    return max(runs, key=lambda run: run[0])[1]


def _one_run(vectors: Vectors, k: int, seed: int) -> tuple[float, Labels]:
    centres, _ = kmeans_plusplus(vectors, k, random_state=seed)
    total, assigned = _assign(vectors, centres)
    for _ in range(MAX_ITERATIONS):
        order = np.argsort(assigned, kind="stable")
        present, starts = np.unique(assigned[order], return_index=True)
        centres[present] = np.add.reduceat(vectors[order], starts)  # an empty cluster's centre stays where it is
        centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        before = assigned
        total, assigned = _assign(vectors, centres)
        if np.array_equal(assigned, before):
            break
    return total, assigned


def _assign(vectors: Vectors, centres: Vectors) -> tuple[float, Labels]:
    """Return the total cosine to the nearest centre, and which it is for each vector."""
    total, assigned = 0.0, np.empty(len(vectors), dtype=np.int64)
    step = max(1, BLOCK_SCORES // len(centres))
    for start in range(0, len(vectors), step):
        similarity = vectors[start : start + step] @ centres.T
        assigned[start : start + step] = similarity.argmax(axis=1)
        total += float(similarity.max(axis=1).sum(dtype=np.float64))
    return total, assigned
