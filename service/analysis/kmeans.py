"""Spherical k-means (Dhillon & Modha 2001): unit vectors in, unit centroids out.

FAISS compares vectors with centroids; the loops around it are here, because its own trainer cannot be stopped before it is
done, which with a thousand clusters takes minutes.
"""

from __future__ import annotations

import faiss
import numpy as np
import numpy.typing as npt

from service.analysis.centroids import nearest
from service.analysis.progress import Progress, part_of
from service.index.faiss_threads import faiss_threads
from service.points import Vector

ITERATIONS = 20  # assignments of image embeddings rarely move after 10 to 15
STEADY = 1e-4  # an iteration that shortens the mean distance by a smaller share is the last
# A bad start costs whole groups where there are few, and there another start costs little: of five the best is taken.
MOST_TRIES = 5
TRIES_TIMES_K = 100  # from 51 centroids on there is one start: what it joins and splits are small groups
POINTS_PER_CENTROID = 256  # more training points do not move a mean noticeably (FAISS' bound as well)
SEEDING_POINTS = 8  # to a centroid, from which the first centroids are chosen, and no fewer than SEEDING_LEAST
SEEDING_LEAST = 4096
BLOCK = 16_384  # vectors compared between two progress calls: 0.3 s with a thousand 384-d centroids


def train(vectors: Vector, k: int, seed: int, progress: Progress, threads: int = 1) -> Vector:
    """Return up to `k` unit centroids [K, D] of unit vectors [B, D], B >= 1; equal seeds give equal centroids.

    More than POINTS_PER_CENTROID vectors to a centroid are not worth their time; let the caller draw a sample.

    `progress` is called with a share of 1 before each block of work, and may raise to stop it.
    """
    tries = max(1, min(MOST_TRIES, TRIES_TIMES_K // k))
    best, best_distance = np.empty((0, vectors.shape[1]), np.float32), np.inf
    rng = np.random.default_rng(seed)
    with faiss_threads(threads):
        for number in range(tries):
            centroids, distance = _from_one_start(
                vectors, k, rng, part_of(progress, number / tries, (number + 1) / tries)
            )
            if distance < best_distance:
                best, best_distance = centroids, distance
    progress(1.0)
    return best


def _from_one_start(vectors: Vector, k: int, rng: np.random.Generator, progress: Progress) -> tuple[Vector, float]:
    """Return centroids from one start, and the mean distance of the vectors to them before they moved last."""
    centroids = _seeded(vectors, k, rng, part_of(progress, 0.0, 0.3))
    before = np.inf
    for iteration in range(ITERATIONS):
        begin, end = (0.3 + 0.7 * n / ITERATIONS for n in (iteration, iteration + 1))
        sums, distance = _gathered(centroids, vectors, part_of(progress, begin, end))
        if distance > (1 - STEADY) * before:
            break
        before = distance
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        # a centroid that nothing is nearest to stays where it is
        centroids = np.where(lengths > 0, sums / np.maximum(lengths, 1e-30), centroids).astype(np.float32)
    return centroids, before


def _gathered(centroids: Vector, vectors: Vector, progress: Progress) -> tuple[npt.NDArray[np.float64], float]:
    """Return the sum of the vectors nearest to each centroid, [K, D], and the mean distance (1 - cosine) to the nearest."""
    sums = np.zeros(centroids.shape)
    distance = 0.0
    for start in range(0, len(vectors), BLOCK):
        progress(start / len(vectors))
        block = vectors[start : start + BLOCK]
        assigned, similarity = nearest(centroids, block)
        order = np.argsort(assigned, kind="stable")
        present, first = np.unique(assigned[order], return_index=True)
        sums[present] += np.add.reduceat(block[order], first, axis=0)
        distance += float(np.sum(1.0 - similarity.astype(np.float64)))
    return sums, distance / len(vectors)


def _seeded(vectors: Vector, k: int, rng: np.random.Generator, progress: Progress) -> Vector:
    """Choose first centroids among the vectors by greedy k-means++ (Arthur & Vassilvitskii 2007, section 6).

    Each is drawn in proportion to the squared distance from those before, a few at a time, of which the one that brings
    the sum of distances down most is taken. Random starts leave two groups in one cluster even where all are apart.
    """
    count = min(len(vectors), max(SEEDING_LEAST, SEEDING_POINTS * k))
    pool = vectors if count == len(vectors) else vectors[np.sort(rng.choice(len(vectors), count, replace=False))]
    candidates = 2 + int(np.log(k))
    seeds = [int(rng.integers(count))]
    # half the squared distance of unit vectors
    distances = np.maximum(1.0 - _cosines(pool, pool[seeds])[:, 0], 0.0).astype(np.float64)
    while len(seeds) < k:
        progress(len(seeds) / k)
        total = np.cumsum(distances)
        if total[-1] <= 1e-6 * count:  # what is left equals the seeds
            break
        drawn = np.searchsorted(total, rng.random(candidates) * total[-1], side="right")
        drawn = np.minimum(drawn, count - 1)
        offered = np.minimum(distances[:, None], np.maximum(1.0 - _cosines(pool, pool[drawn]), 0.0))
        best = int(offered.sum(axis=0).argmin())
        distances = offered[:, best]
        seeds.append(int(drawn[best]))
    return np.ascontiguousarray(pool[seeds])


def _cosines(vectors: Vector, others: Vector) -> Vector:
    """Return [B, n] for unit vectors [B, D] and a few others [n, D]; by FAISS, which keeps to the threads it was given."""
    cosines: Vector = faiss.pairwise_distances(vectors, others, metric=faiss.METRIC_INNER_PRODUCT)
    return cosines
