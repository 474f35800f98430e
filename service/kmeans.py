"""Spherical k-means: unit vectors in, unit centroids out, by FAISS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from service.openmp import faiss_threads
from service.points import Vector

ITERATIONS = 20  # assignments of image embeddings rarely move after 10 to 15
MAX_POINTS_PER_CENTROID = 256  # FAISS' own bound: more training points do not move a mean noticeably
ASSIGN_BLOCK = 65536  # vectors assigned between two progress calls: some 0.1 s


@dataclass(frozen=True)
class Partition:
    """K groups of B vectors, largest first and none empty.

    centroids: float32 [K, D], unit rows; assigned: int64 [B], the group of each vector; similarity: float32 [B], its
    cosine to that group's centroid.
    """

    centroids: Vector
    assigned: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]


def spherical_kmeans(
    vectors: Vector, k: int, seed: int, progress: Callable[[float], None], threads: int = 1
) -> Partition:
    """Partition unit vectors [B, D], B >= 1, into up to `k` groups; equal seeds give equal groups.

    `progress` is called with a share of 1 before each iteration and each block, and may raise to stop the work.
    """
    k = min(k, len(vectors))
    trainer = faiss.Kmeans(
        vectors.shape[1],
        k,
        niter=1,
        spherical=True,
        seed=seed,
        min_points_per_centroid=1,  # it would only print a warning below 39
        max_points_per_centroid=MAX_POINTS_PER_CENTROID,
        # k-means++ (Arthur & Vassilvitskii 2007): random starts leave two groups in one cluster even where all are apart
        init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
    )
    with faiss_threads(threads):
        centroids = _train(trainer, vectors, progress)
        return _ordered(centroids, *_assign(centroids, vectors, progress))


def _train(trainer: Any, vectors: Vector, progress: Callable[[float], None]) -> Vector:  # noqa: ANN401 - FAISS has no types
    """Iterate one at a time, so that a caller sees progress and can stop; return the centroids [K, D]."""
    centroids: Vector | None = None
    for iteration in range(ITERATIONS):
        progress(0.9 * iteration / ITERATIONS)
        trainer.train(vectors, init_centroids=centroids)
        centroids = trainer.centroids.copy()
    assert centroids is not None
    return centroids


def _assign(
    centroids: Vector, vectors: Vector, progress: Callable[[float], None]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the nearest centroid of each vector and its cosine, both [B]."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(centroids)
    assigned = np.empty(len(vectors), np.int64)
    similarity = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), ASSIGN_BLOCK):
        progress(0.9 + 0.1 * start / len(vectors))
        block = slice(start, start + ASSIGN_BLOCK)
        scores, nearest = index.search(np.ascontiguousarray(vectors[block]), 1)
        assigned[block], similarity[block] = nearest[:, 0], scores[:, 0]
    return assigned, similarity


def _ordered(centroids: Vector, assigned: npt.NDArray[np.int64], similarity: npt.NDArray[np.float32]) -> Partition:
    """Number the groups by size and leave empty ones out (there are some where points are equal)."""
    sizes = np.bincount(assigned, minlength=len(centroids))
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    number = np.empty(len(centroids), np.int64)
    number[order] = np.arange(len(order))
    return Partition(centroids[order], number[assigned], similarity)
