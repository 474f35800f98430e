"""HDBSCAN (Campello, Moulavi & Sander 2013) where the number of clusters is unknown: dense regions, and noise between them.

It runs on the leading principal components, where neighbours are found faster and density means more, and on a sample of a
large collection. What it says of the sampled points stands. Each cluster then reaches as far from its centroid as REACHED of
its sampled members lie, and the points outside of the sample follow the rule of `service/analysis/centroids.py`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from service.analysis.centroids import NOISE, Centroids, Clusters
from service.analysis.hdbscan_worker import hdbscan
from service.analysis.progress import Progress
from service.index.sharp_cosines import sharpen
from service.points import Vector

SAMPLE_POINTS = 10_000  # the time grows with the square: some 6 s at 32 dimensions on one idle core, 10 on a busy one
COMPONENTS = 32  # of 30 groups in 384 dimensions 8 and 16 components mixed some, 64 took three times as long
MIN_SIZE = 5  # scikit-learn's and the reference implementation's default
# A few members that hang on by a long chain would widen the reach for all. On handwritten digits the rule then finds nine in
# ten of the members again, and lets in a third of the noise; reaching for all of them lets in half.
REACHED = 0.95
COPIES_COSINE = (
    1.0 - 2.0**-15
)  # at least: what rounding leaves of that of copies, in bf16, too; no two pictures are so near
TWO_COPIES_COSINE = 1.0 - 2.0**-13  # of two copies of one: at twice the angle
BLOCK = 512  # vectors compared with all at a time: 20 MB of cosines with a whole sample


def cluster_by_density(vectors: Vector, min_size: int, progress: Progress) -> tuple[Centroids, Clusters]:
    """Return what HDBSCAN finds in unit vectors [B, D]: the clusters' centroids and reach, and the cluster of each point, or NOISE.

    min_size: points of the smallest cluster, at least 2.

    Equal input gives an equal answer. `progress` is called several times a second and may raise to stop the work.
    """
    progress(0.0)
    assigned = hdbscan(_leading_components(vectors), min_size, lambda: progress(0.5))
    copies = _copies(vectors, assigned != NOISE, progress)
    # HDBSCAN never takes the whole for a cluster: copies of one point beside nothing dense would be noise, or fall apart by rounding
    if np.count_nonzero(copies) >= min_size:
        assigned = np.where(copies, 0, NOISE)
    count = int(assigned.max(initial=-1)) + 1
    centroids = np.zeros((count, vectors.shape[1]), np.float32)
    reach = np.zeros(count, np.float32)
    for cluster in range(count):
        members = vectors[assigned == cluster]
        mean = members.mean(axis=0)
        centroids[cluster] = mean / max(float(np.linalg.norm(mean)), 1e-30)
        own = members @ centroids[cluster]
        sharpen(own[:, None], members, centroids, np.full((len(members), 1), cluster))
        reach[cluster] = np.quantile(own, 1.0 - REACHED)
    return Centroids(centroids, reach), assigned


def _copies(vectors: Vector, clustered: npt.NDArray[np.bool_], progress: Progress) -> npt.NDArray[np.bool_]:
    """Return which of unit vectors [B, D] are copies of one, that which has the most; none where one that is clustered is no copy."""
    most = none = np.zeros(len(vectors), np.bool_)
    inside = vectors[clustered]
    if (inside @ inside[:1].T < TWO_COPIES_COSINE).any():
        return none  # without comparing all
    for start in range(0, len(vectors), BLOCK):
        progress(0.5)
        near = vectors[start : start + BLOCK] @ vectors.T >= COPIES_COSINE
        likely = near[np.count_nonzero(near, axis=1).argmax()]
        if np.count_nonzero(likely) > np.count_nonzero(most):
            most = likely
    return most if most[clustered].all() else none


def sampled_size(min_size: int, points: int) -> int:
    """Return the smallest cluster of a sample, for the smallest cluster of a collection of so many points."""
    return min_size if points <= SAMPLE_POINTS else max(MIN_SIZE, round(min_size * SAMPLE_POINTS / points))


def _leading_components(vectors: Vector) -> Vector:
    """Return the projection of vectors [B, D] on their COMPONENTS principal axes, float32 [B, min(D, COMPONENTS)]."""
    if vectors.shape[1] <= COMPONENTS:
        return vectors
    centred = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T.astype(np.float64) @ centred)  # ascending eigenvalues
    return np.ascontiguousarray(centred @ axes[:, -COMPONENTS:].astype(np.float32))
