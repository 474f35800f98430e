"""Grouping the points of a collection by a method: what it finds, and where each point stands in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from service.analysis.centroids import NOISE, Centroids, Clusters, reaching_everywhere
from service.analysis.choose_k import SWEEP_POINTS, choose_k
from service.analysis.hdbscan import MIN_SIZE, SAMPLE_POINTS, cluster_by_density, sampled_size
from service.analysis.kmeans import BLOCK, POINTS_PER_CENTROID, train
from service.analysis.point_set import PointSet
from service.analysis.progress import Progress, part_of
from service.errors import Invalid
from service.index.positions import Positions
from service.index.sharp_cosines import sharpen
from service.points import Vector

Method = Literal["kmeans", "hdbscan"]


@dataclass(frozen=True)
class Recipe:
    """How to group: k-means into `k` clusters ("auto": as many as a sweep recommends), or HDBSCAN with clusters of `min_size`
    points and more (None: its default). Equal seeds give equal groups of equal points.
    """

    method: Method = "kmeans"
    k: int | Literal["auto"] | None = None
    seed: int = 0
    min_size: int | None = None

    def check(self) -> None:
        """Raise Invalid where it makes no sense."""
        if self.method not in ("kmeans", "hdbscan"):
            raise Invalid(f"there is no clustering method {self.method!r}; use kmeans or hdbscan.")
        if not 0 <= self.seed < 2**31:
            raise Invalid("the seed of a clustering is a number from 0 to 2147483647.")
        if self.method == "kmeans":
            if self.k is None or (self.k != "auto" and self.k < 1):
                raise Invalid("k-means needs k, a number of clusters from 1, or auto.")
            if self.min_size is not None:
                raise Invalid("min_size belongs to hdbscan; leave it out, or use that method.")
        elif self.k is not None:
            raise Invalid("hdbscan finds the number of clusters itself; leave k out.")
        elif self.min_size is not None and self.min_size < 2:
            raise Invalid("the smallest cluster, min_size, has at least 2 points.")


@dataclass(frozen=True)
class Grouping:
    """Groups of B points, the largest first and none of them empty.

    centroids: of the K groups; clusters: int64 [B], each point's group or NOISE; similarity: float32 [B], its cosine to that
    group's centroid, of noise to the nearest; parameters: what is worth keeping of how it was found, as JSON.
    """

    centroids: Centroids
    clusters: Clusters
    similarity: Vector
    parameters: dict[str, Any]


def group(point_set: PointSet, recipe: Recipe, progress: Progress) -> Grouping:
    """Group points, of which there is at least one. `progress` is called several times a second and may raise to stop."""
    if recipe.method == "hdbscan":
        return _by_density(point_set, recipe, progress)
    return _by_kmeans(point_set, recipe, progress)


def _by_kmeans(point_set: PointSet, recipe: Recipe, progress: Progress) -> Grouping:
    threads = point_set.view.threads
    parameters: dict[str, Any] = {"k": recipe.k}
    k = recipe.k
    begun = 0.0
    if not isinstance(k, int):
        begun = 0.5
        sample = _sample(len(point_set), SWEEP_POINTS, recipe.seed)
        sweep = choose_k(_vectors(point_set, sample), recipe.seed, part_of(progress, 0.0, begun), threads)
        k = sweep.k
        parameters |= {"sample": len(sample), "sweep": [{"k": k, "score": score} for k, score in sweep.scores]}
    k = min(k, len(point_set))
    training = _vectors(point_set, _sample(len(point_set), POINTS_PER_CENTROID * k, recipe.seed))
    found = train(training, k, recipe.seed, part_of(progress, begun, 0.9), threads)
    centroids = reaching_everywhere(found)
    return _ordered(centroids, *_placed(point_set, centroids, part_of(progress, 0.9, 1.0)), parameters)


def _by_density(point_set: PointSet, recipe: Recipe, progress: Progress) -> Grouping:
    sample = _sample(len(point_set), SAMPLE_POINTS, recipe.seed)
    min_size = recipe.min_size or MIN_SIZE
    vectors = _vectors(point_set, sample)
    centroids, decided = cluster_by_density(
        vectors, sampled_size(min_size, len(point_set)), part_of(progress, 0.0, 0.9)
    )
    clusters, similarity = _placed(point_set, centroids, part_of(progress, 0.9, 1.0))
    clusters[sample] = decided
    inside = decided != NOISE
    own = np.einsum("bd,bd->b", vectors[inside], centroids.vectors[decided[inside]])
    sharpen(own[:, None], vectors[inside], centroids.vectors, decided[inside, None])
    similarity[sample[inside]] = own
    return _ordered(centroids, clusters, similarity, {"min_size": min_size, "sample": len(sample)})


def _placed(point_set: PointSet, centroids: Centroids, progress: Progress) -> tuple[Clusters, Vector]:
    """Return the cluster of each point by the rule of the centroids, and its cosine to the nearest, both [B]."""
    clusters = np.empty(len(point_set), np.int64)
    similarity = np.empty(len(point_set), np.float32)
    for start in range(0, len(point_set), BLOCK):
        progress(start / len(point_set))
        block = slice(start, start + BLOCK)
        clusters[block], similarity[block] = centroids.assign(
            point_set.vectors(start, start + BLOCK), point_set.view.threads
        )
    return clusters, similarity


def _ordered(centroids: Centroids, clusters: Clusters, similarity: Vector, parameters: dict[str, Any]) -> Grouping:
    """Number the groups by size and leave empty ones out (there are some where points are equal)."""
    sizes = np.bincount(clusters[clusters != NOISE], minlength=len(centroids))
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    number = np.full(len(centroids) + 1, NOISE)  # the last one stands for noise, which is -1
    number[order] = np.arange(len(order))
    return Grouping(centroids.reordered(order), number[clusters], similarity, parameters)


def _sample(count: int, most: int, seed: int) -> Positions:
    """Return up to `most` of `count` positions, ascending, drawn without preference."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _vectors(point_set: PointSet, positions: Positions) -> Vector:
    return point_set.view.vectors(point_set.rows[positions])
