"""A sweep over k, the number of clusters, on a sample, judged by the simplified silhouette (Hruschka, de Castro & Campello 2004).

Of a point with cosine distance a to its own centroid and b to the next nearest, the silhouette is (b - a) / b: 1 where its
cluster lies alone, 0 between two. Its mean is greatest where clusters are closed and apart: too few k join groups (a grows),
too many split them (b shrinks). Unlike the silhouette of Rousseeuw 1987, which compares all pairs, it takes B x K products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.analysis.centroids import two_nearest
from service.analysis.kmeans import train
from service.analysis.progress import Progress
from service.index.faiss_threads import faiss_threads
from service.points import Vector

SWEEP_POINTS = 10_000  # 20 points to each of MOST_CLUSTERS; the whole sweep takes some 10 s on two idle cores
MOST_CLUSTERS = 500
POINTS_PER_CLUSTER = 10  # a k with fewer is not tried: tiny clusters are close to their centroids whatever the data
SMALL = 10  # but up to 10 clusters are tried where there are 3 points to each: someone's first thirty pictures
LADDER = 1.5  # from one k to the next; between the neighbours of the best the sweep then looks again
REFINED = 6  # values of k tried there


@dataclass(frozen=True)
class Sweep:
    """The recommended k, and the score of every k that was tried, by k."""

    k: int
    scores: tuple[tuple[int, float], ...]


def choose_k(vectors: Vector, seed: int, progress: Progress, threads: int = 1) -> Sweep:
    """Recommend a k for unit vectors [B, D], B >= 1; equal seeds give equal sweeps. Of equal scores the smaller k wins.

    `progress` is called with a share of 1 before each block of work, and may raise to stop it.
    """
    most = min(MOST_CLUSTERS, max(len(vectors) // POINTS_PER_CLUSTER, min(len(vectors) // 3, SMALL)))
    scores: dict[int, float] = {}
    if most < 2:
        return Sweep(1, ())
    ladder = _ladder(most)
    work = (
        float(sum(ladder)) + REFINED * most / 2
    )  # the cost of a k grows with it; what will be refined is not known yet
    done = 0.0

    def attempt(k: int) -> None:
        nonlocal done
        centroids = train(vectors, k, seed, lambda share: progress(min(1.0, (done + share * k) / work)), threads)
        with faiss_threads(threads):
            scores[k] = simplified_silhouette(vectors, centroids)
        done += k

    for k in ladder:
        attempt(k)
    at = ladder.index(_best(scores))
    between = np.geomspace(ladder[max(at - 1, 0)], ladder[min(at + 1, len(ladder) - 1)], REFINED + 2)
    for k in sorted({round(k) for k in between.tolist()} - scores.keys()):
        attempt(k)
    return Sweep(_best(scores), tuple(sorted(scores.items())))


def simplified_silhouette(vectors: Vector, centroids: Vector) -> float:
    """Return the mean of (b - a) / b over unit vectors [B, D] for unit centroids [K, D]; 0 for one alone in its cluster."""
    if len(centroids) < 2:
        return 0.0
    found, cosines = two_nearest(centroids, vectors)
    own, other = (1.0 - cosines.astype(np.float64)).T
    silhouettes = np.where(other > 0, (other - own) / np.maximum(other, 1e-12), 0.0)
    alone = np.bincount(found[:, 0])[found[:, 0]] == 1
    return float(np.where(alone, 0.0, silhouettes).mean())


def _ladder(most: int) -> list[int]:
    """Return 2, 3, 4, 6, 9, 14 ... up to `most`, which is the last."""
    steps = [2]
    while steps[-1] < most:
        steps.append(min(most, max(steps[-1] + 1, round(steps[-1] * LADDER))))
    return steps


def _best(scores: dict[int, float]) -> int:
    return max(sorted(scores), key=lambda k: scores[k])
