"""Centroids of clusters, and the rule that puts a point into one when a clustering is made and when a point arrives later.

A point belongs to the cluster whose centroid is nearest to it by cosine, if the cosine is at least that cluster's reach, and to
noise otherwise. The clusters of k-means reach everywhere; those of HDBSCAN as far as their own members lie.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from service.index.faiss_threads import faiss_threads
from service.index.sharp_cosines import sharpen
from service.points import Vector

NOISE = -1  # stands in place of a cluster's number
EVERYWHERE = -1.0  # the reach that no cosine misses

Clusters = npt.NDArray[np.int64]  # numbers of clusters, or NOISE


@dataclass(frozen=True)
class Centroids:
    """vectors: float32 [K, D], unit rows, K may be 0; reach: float32 [K], the least cosine of a member."""

    vectors: Vector
    reach: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.vectors)

    def assign(self, vectors: Vector, threads: int = 1) -> tuple[Clusters, npt.NDArray[np.float32]]:
        """Return the cluster of each unit vector [B, D], or NOISE, and its cosine to the nearest centroid, both [B]."""
        if not len(self):
            return np.full(len(vectors), NOISE), np.zeros(len(vectors), np.float32)
        with faiss_threads(threads):
            found, similarity = nearest(self.vectors, vectors)
        return np.where(similarity >= self.reach[found], found, NOISE), similarity

    def reordered(self, order: npt.NDArray[np.int64]) -> Centroids:
        """Return the centroids at these positions."""
        return Centroids(self.vectors[order], self.reach[order])


def reaching_everywhere(vectors: Vector) -> Centroids:
    """Return centroids [K, D] that leave no point out."""
    return Centroids(vectors, np.full(len(vectors), EVERYWHERE, np.float32))


def nearest(centroids: Vector, vectors: Vector) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the nearest centroid [K, D], K >= 1, of each vector [B, D] and its cosine, both [B]."""
    scores, found = _nearest(centroids, vectors, 1)
    return found[:, 0], scores[:, 0]


def two_nearest(centroids: Vector, vectors: Vector) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the two nearest centroids [K, D], K >= 2, of each vector [B, D] and their cosines, both [B, 2]."""
    scores, found = _nearest(centroids, vectors, 2)
    return found, scores


def _nearest(centroids: Vector, vectors: Vector, k: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    scores, found = faiss.knn(
        np.ascontiguousarray(vectors), np.ascontiguousarray(centroids), k, metric=faiss.METRIC_INNER_PRODUCT
    )
    sharpen(scores, vectors, centroids, found)
    return scores, found
