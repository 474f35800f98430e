"""A segment of the index: unit vectors in the order of their rows, a bitmap of those that are there, and exact search over them.

Two kinds share this form. A segment of the tail grows: its buffers are filled front to back. The main segment is large, never
grows, lies in a memory-mapped file and may have an approximate index beside it (`service/index/approximate.py`). What a segment was
made with is never rewritten, so searches need no lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import faiss
import numpy as np
import numpy.typing as npt

from service.index.approximate import ApproximateIndex
from service.index.positions import Bitmap, Positions, PositionSet, bits, packed, unpacked
from service.index.sharp_cosines import may_be_of_copies, sharpen
from service.points import Rows, Vector

NO_ROW = -1  # stands where fewer than k vectors could be found
# FAISS' scan asks the bitmap about every vector (some 2 ns each) and reads those selected where they are; copying them together
# first costs some 80 ns each, and then a matrix product serves all queries.
GATHER_SHARE = 1 / 32
GATHER_QUERIES = 8
MOST_EQUAL = 4096  # equal cosines among which the first by position are found; beyond, any of them
GATHER_ROWS = 65_536  # copied together at a time: 100 MB of 384-d vectors


@dataclass(frozen=True, eq=False)
class Segment:
    """`count` vectors in the order of their rows; `alive` is None while none of them is deleted.

    vectors: float32 [capacity, D], of which [:count] is ours to see; rows: int64 [capacity], ascending;
    alive: bitmap of `count` bits; approximate: finds most of the nearest without looking at every vector, None in the tail.
    """

    vectors: Vector
    rows: Rows
    count: int
    alive: Bitmap | None = None
    dead: int = 0
    approximate: ApproximateIndex | None = None
    fixed: bool = False  # the main segment: it neither grows nor is copied without its tombstones

    def __len__(self) -> int:
        return self.count - self.dead

    def mask(self) -> npt.NDArray[np.bool_]:
        """Return bool [count]: which vectors are there."""
        if self.alive is None:
            return np.ones(self.count, np.bool_)
        return unpacked(self.alive, self.count)

    def positions(self, rows: Rows) -> Positions:
        """Return where `rows` (ascending) stand, leaving out those that are not of this segment."""
        mine = self.rows[: self.count]
        if not self.count:
            return np.empty(0, np.int64)
        wanted = rows[np.searchsorted(rows, mine[0]) : np.searchsorted(rows, mine[-1], side="right")]
        at = np.searchsorted(mine, wanted)
        here: Positions = at[mine[at] == wanted]
        return here

    def without(self, at: Positions) -> Segment:
        """Return the same vectors with tombstones at these positions too."""
        if not len(at):
            return self
        alive = packed(np.ones(self.count, np.bool_)) if self.alive is None else self.alive.copy()
        newly = int(np.count_nonzero(bits(alive, at)))
        np.bitwise_and.at(alive, at >> 3, ~(np.uint8(1) << (at & 7).astype(np.uint8)))
        return replace(self, alive=alive, dead=self.dead + newly)

    def search(self, queries: Vector, k: int, allowed: PositionSet | None, exact: bool) -> tuple[Vector, Rows] | None:
        """Return the k nearest of each query: scores [Q, k] and rows [Q, k], best first; None where nothing is allowed.

        Scores lie within [-1, 1], and those of equal vectors are 1 (`service/index/sharp_cosines.py`).

        allowed: the positions to which the search is confined; those with tombstones are left out.
        """
        selected = self._selected(allowed)
        if selected is not None and not len(selected):
            return None
        if self.approximate is not None and not exact:
            scores, at = self._approximately(self.approximate, queries, k, selected)
        else:
            scores, at = search_exactly(self.vectors[: self.count], queries, k, selected)
        none = at < 0
        scores[none] = -np.inf
        return scores, np.where(none, NO_ROW, self.rows[at])

    def _selected(self, allowed: PositionSet | None) -> PositionSet | None:
        if self.alive is None:
            return allowed
        if allowed is None:
            return PositionSet(self.count, bitmap=self.alive, size=len(self))
        return allowed.among(self.alive)

    def _approximately(
        self, approximate: ApproximateIndex, queries: Vector, k: int, selected: PositionSet | None
    ) -> tuple[Vector, Positions]:
        """Let the index answer what it can vouch for, and compare with every selected vector for the rest."""
        candidates = approximate.candidates(k, len(self) if selected is None else len(selected))
        if candidates is None:  # few are selected, or many wanted: comparing is as fast, and exact
            return search_exactly(self.vectors, queries, k, selected)
        scores, at, sure = approximate.search(self.vectors, queries, k, candidates, selected)
        if not sure.all():
            scores[~sure], at[~sure] = search_exactly(self.vectors, queries[~sure], k, selected)
        return scores, at


def search_exactly(vectors: Vector, queries: Vector, k: int, selected: PositionSet | None) -> tuple[Vector, Positions]:
    """Compare queries [Q, D] with all vectors [N, D], or the selected ones: cosines [Q, k] and positions [Q, k], -1 for none.

    Equal cosines are in the order of positions, also where k cuts through them: so that it is always the same copies of an
    image that are found, whatever k. And copies come before what is only near, of which float32 may put any number first.
    """
    scores = np.empty((len(queries), k), np.float32)
    at = np.empty((len(queries), k), np.int64)
    left, wide = np.arange(len(queries)), k + 1  # one more shows whether k cuts through equal ones
    while len(left):
        some, where = _compared(vectors, queries[left], wide, selected)
        cut = (some[:, k - 1] == some[:, -1]) | may_be_of_copies(some[:, -1], queries.shape[1])
        cut &= (where[:, -1] >= 0) & (wide < MOST_EQUAL)
        scores[left[~cut]], at[left[~cut]] = _k_best(some[~cut], where[~cut], vectors, queries[left[~cut]], k)
        left, wide = left[cut], min(4 * wide, MOST_EQUAL)
    return scores, at


def _k_best(scores: Vector, at: Positions, vectors: Vector, queries: Vector, k: int) -> tuple[Vector, Positions]:
    if sharpen(scores, queries, vectors, at):
        scores, at = best([scores], [at], k)
    return scores[:, :k], at[:, :k]


def _compared(vectors: Vector, queries: Vector, k: int, selected: PositionSet | None) -> tuple[Vector, Positions]:
    if selected is None or len(selected) == len(vectors):
        scores, at = _scan(vectors, queries, k, None)
    elif len(selected) > GATHER_SHARE * len(vectors) and len(queries) < GATHER_QUERIES:
        scores, at = _scan(vectors, queries, k, selected.bitmap())
    else:
        found = list(_gathered(vectors, queries, k, selected.positions()))
        return best([scores for scores, _ in found], [at for _, at in found], k)
    return best([scores], [at], k)


def _gathered(vectors: Vector, queries: Vector, k: int, positions: Positions) -> Iterator[tuple[Vector, Positions]]:
    for start in range(0, len(positions), GATHER_ROWS):
        part = positions[start : start + GATHER_ROWS]
        scores, at = _scan(vectors[part], queries, k, None)
        yield scores, np.where(at < 0, -1, part[at])


def _scan(vectors: Vector, queries: Vector, k: int, bitmap: Bitmap | None) -> tuple[Vector, Positions]:
    scores = np.empty((len(queries), k), np.float32)
    at = np.empty((len(queries), k), np.int64)
    selector = None if bitmap is None else faiss.IDSelectorBitmap(len(vectors), faiss.swig_ptr(bitmap))
    faiss.knn_inner_product(
        faiss.swig_ptr(queries),
        faiss.swig_ptr(vectors),
        queries.shape[1],
        len(queries),
        len(vectors),
        k,
        faiss.swig_ptr(scores),
        faiss.swig_ptr(at),
        selector,
    )
    scores[at < 0] = -np.inf
    return scores, at


def best(scores: list[Vector], numbers: list[Rows], k: int) -> tuple[Vector, Rows]:
    """Merge results [Q, *]: the k best of each query, best first, equal scores by number."""
    if len(scores) == 1 and scores[0].shape[1] <= 1:
        return scores[0], numbers[0]
    all_scores, all_numbers = np.concatenate(scores, axis=1), np.concatenate(numbers, axis=1)
    order = np.lexsort((all_numbers, -all_scores), axis=1)[:, :k]
    return np.take_along_axis(all_scores, order, axis=1), np.take_along_axis(all_numbers, order, axis=1)
