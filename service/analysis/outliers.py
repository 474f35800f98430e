"""Outliers: points that stand alone, by the mean cosine distance to their k nearest neighbours (Angiulli & Pizzuti 2002).

The mean of k distances, where the k-th alone (Ramaswamy, Rastogi & Shim 2000) jumps with one neighbour. In the comparison of
Campos et al. 2016 distances to neighbours do as well as the local ratios that came after them (LOF), and need no second look.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.analysis.point_set import PointSet
from service.analysis.progress import Progress
from service.points import Rows

NEIGHBOURS = 10  # so that a handful of equal strangers still stand out; half of what DINO's vote asks


@dataclass(frozen=True)
class Outliers:
    """Rows [n] and their scores [n], 0 (all neighbours equal it) to 2, greatest first."""

    rows: Rows
    scores: np.typing.NDArray[np.float64]


def find_outliers(point_set: PointSet, k: int, limit: int, progress: Progress, exact: bool = False) -> Outliers:
    """Return the `limit` points farthest from their `k` nearest others (capped at what is there); none where there is one point.

    The index answers as it does searches; `exact` compares every point with every other. `progress` is called several times a
    second and may raise to stop the work.
    """
    scores = np.empty(len(point_set))
    for start, cosines, _ in point_set.neighbours(k, exact):
        progress(start / len(point_set))
        if not cosines.shape[1]:
            return Outliers(point_set.rows[:0], scores[:0])
        found = np.isfinite(cosines)  # -inf where the index found fewer
        near = np.where(found, cosines, 0.0).sum(axis=1, dtype=np.float64) / np.maximum(found.sum(axis=1), 1)
        scores[start : start + len(cosines)] = np.clip(1.0 - near, 0.0, 2.0)
    order = np.argsort(-scores, kind="stable")[:limit]
    return Outliers(point_set.rows[order], scores[order])
