"""Near-duplicates: groups of points that a chain of pairs at or above a cosine connects (single linkage at a threshold).

Every point is asked for its nearest; where the last of them is still above the threshold, for more. The pairs are joined a
block at a time, so that a million points take some tens of bytes each and never all pairs at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.analysis.point_set import UNLABELLED, PointSet
from service.analysis.progress import Progress, timed_blocks
from service.index.positions import Positions
from service.index.row_set import RowSet
from service.index.segments import NO_ROW
from service.points import Rows, Vector

FIRST_K = 8  # most photographs have no or a few duplicates
GROWTH = 4
MOST_K = 512  # a point with as many duplicates and more is linked to the nearest 512, and those to theirs
LISTED = 100  # ids of a group that are listed; beyond lie blank frames and placeholders, whose number says enough
ROUNDING = 1e-6  # what another rounding of the network's numbers may take from the cosine of two copies: 1.0 finds them
PENDING_PAIRS = 2_000_000  # joined at once: 32 MB, and a pass over all points' groups for each time


@dataclass(frozen=True)
class DuplicateGroup:
    """A group: how many, the rows of the first LISTED of them in the order in which they were put, how many bear each label.

    `score` is the cosine by which the least similar member still hangs on the one nearest to it.
    """

    size: int
    score: float
    rows: Rows
    labels: dict[str, int]


@dataclass(frozen=True)
class Duplicates:
    """The duplicates that were found: the largest groups (of equal ones the most similar first), how many groups and points in them
    there are in all, and how many points had MOST_K others above the threshold or more.
    """

    groups: list[DuplicateGroup]
    total: int
    duplicates: int
    capped: int


def find_duplicates(
    point_set: PointSet,
    threshold: float,
    limit: int,
    progress: Progress,
    exact: bool = False,
    sides: tuple[Rows, Rows] | None = None,
) -> Duplicates:
    """Group the points whose cosine is at least `threshold`, up to rounding; return the first `limit` groups.

    sides: rows (ascending) of two sets; only a pair with one point in each counts then, and only these are in groups.

    The index answers as it does searches; `exact` compares every point with every other. `progress` is called several times a
    second and may raise to stop the work.
    """
    asked, among = np.arange(len(point_set)), None
    if sides is not None:
        fewer, more = sorted((rows[np.isin(rows, point_set.rows)] for rows in sides), key=len)
        asked, among = np.searchsorted(point_set.rows, fewer), RowSet(more)
    components = _Components(len(point_set))
    search = _Search(point_set, among, threshold - ROUNDING, exact)
    for start, stop in timed_blocks(len(asked)):
        share = 0.95 * start / len(asked)
        for pairs in search.pairs(asked[start:stop]):
            progress(share)
            components.join(*pairs)
    progress(0.95)
    return _listed(point_set, components, limit, search.capped)


class _Search:
    """Finds the pairs of points, and counts the points that may have more than were looked at."""

    def __init__(self, point_set: PointSet, among: RowSet | None, least: float, exact: bool) -> None:
        self._point_set, self._among, self._least, self._exact = point_set, among, least, exact
        self.capped = 0

    def pairs(self, positions: Positions) -> Iterator[tuple[Positions, Positions, Vector]]:
        """Yield pairs of one of these positions and another, with their cosines; several times a second, none or more."""
        there = len(self._point_set) if self._among is None else len(self._among)
        k = FIRST_K
        while len(positions):
            parts = []
            # for more neighbours a block takes longer, so it is timed anew
            for start, stop in [(0, len(positions))] if k == FIRST_K else timed_blocks(len(positions)):
                part = positions[start:stop]
                scores, rows = self._nearest(part, k)
                above = (scores >= self._least) & (rows != NO_ROW)
                more = above[:, -1] if k + 1 < there else np.zeros(len(part), np.bool_)
                which, column = np.nonzero(above)
                others = np.searchsorted(self._point_set.rows, rows[which, column])
                apart = others != part[which]
                yield part[which][apart], others[apart], scores[which, column][apart]
                parts.append(part[more])
            positions = np.concatenate(parts)
            if k == MOST_K:
                self.capped += len(positions)
                return
            k = min(k * GROWTH, MOST_K)

    def _nearest(self, positions: Positions, k: int) -> tuple[Vector, Rows]:
        """Return cosines and rows of the k nearest and, mostly, the point itself, both [b, k + 1] or what is there."""
        vectors = self._point_set.view.vectors(self._point_set.rows[positions])
        return self._point_set.view.search(vectors, k + 1, self._among, self._exact)


class _Components:
    """The connected components of the pairs, joined a block at a time, and each point's cosine to the nearest of its own."""

    def __init__(self, count: int) -> None:
        self._group = np.arange(count, dtype=np.int32)  # the points of one component bear one number
        self._pending: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]] = []
        self._waiting = 0
        self.nearest = np.full(count, -np.inf, np.float32)

    def join(self, left: Positions, right: Positions, scores: Vector) -> None:
        """Say that these points hang together, pair by pair."""
        np.maximum.at(self.nearest, left, scores)
        np.maximum.at(self.nearest, right, scores)
        ends = self._group[left], self._group[right]
        apart = ends[0] != ends[1]
        if apart.any():
            self._pending.append((ends[0][apart], ends[1][apart]))
            self._waiting += int(np.count_nonzero(apart))
        if self._waiting > PENDING_PAIRS:
            self._merge()

    def groups(self) -> npt.NDArray[np.int32]:
        """Return a number for each point that only those share which hang together."""
        self._merge()
        return self._group

    def _merge(self) -> None:
        if not self._pending:
            return
        # heavy, and needed nowhere else
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        left, right = (np.concatenate(ends) for ends in zip(*self._pending, strict=True))
        count = len(self._group)
        pairs = coo_array((np.ones(len(left), np.bool_), (left, right)), shape=(count, count))
        _, joined = connected_components(pairs, directed=False)
        self._group = joined[self._group].astype(np.int32)
        self._pending, self._waiting = [], 0


def _listed(point_set: PointSet, components: _Components, limit: int, capped: int) -> Duplicates:
    groups = components.groups()
    members = np.flatnonzero(components.nearest > -np.inf)  # those that hang on another
    members = members[np.argsort(groups[members], kind="stable")]
    _, first, sizes = np.unique(groups[members], return_index=True, return_counts=True)
    if not len(first):
        return Duplicates([], 0, 0, capped)
    scores = np.minimum.reduceat(components.nearest[members], first)
    order = np.lexsort((members[first], -scores, -sizes))[:limit]
    listed = [_group(point_set, members[first[i] : first[i] + sizes[i]], float(scores[i])) for i in order]
    return Duplicates(listed, len(first), len(members), capped)


def _group(point_set: PointSet, positions: Positions, score: float) -> DuplicateGroup:
    numbers = point_set.labels[positions]
    found, counts = np.unique(numbers[numbers != UNLABELLED], return_counts=True)
    labels = {point_set.names[i]: int(n) for i, n in zip(found.tolist(), counts.tolist(), strict=True)}
    return DuplicateGroup(len(positions), score, point_set.rows[positions[:LISTED]], labels)
