"""Approximate indexes of a main segment: most of the nearest vectors by looking at some hundreds or thousands instead of all.

Two kinds, both from FAISS, over copies of the vectors at less precision. `hnsw` (Malkov & Yashunin 2018, arXiv:1603.09320) walks a
graph and is the faster one. `ivf` (Jégou et al. 2011) looks into the lists of the nearest centroids; it takes over where
clusters lie so far apart that no link of a graph leads from one to another. What is found is scored again with the vectors
themselves, so that scores are those of an exact search. How much effort (`efSearch` of the one, `nprobe` of the other) finding
the k nearest takes is measured when an index is built (`service/index/planner.py`).

Filters are applied to what is found, not inside the search: that ends near the query whether or not what lies there is allowed,
and then returns whichever allowed vectors it came across. Here, of the r nearest of all, those that are allowed are the nearest
allowed ones, as surely as the r were found. Where fewer than k are left, what is allowed lies elsewhere: then more are asked
for, and in the end everything that is allowed is compared.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import numpy.typing as npt

from service.index.positions import Positions, PositionSet, bits
from service.index.sharp_cosines import sharpen
from service.points import Vector

Kind = Literal["hnsw", "ivf"]

NEAR, FAR, DEEP = 10, 100, 1000  # the numbers of neighbours for which the needed effort is measured
VECTORS_PER_EF = 10  # vectors that are compared one by one in the time that one more candidate costs a graph (32 links)
WIDER = 4  # how much further a search looks that found too few
SPARE = (
    30  # found beyond k, and up to twice k: half precision confuses neighbours whose cosines differ by less than 0.001
)
TRUSTED = 0.75  # of the candidates: the last are where a search misses most
HELD_OUT = 400  # vectors: their 4,000 neighbours tell a recall of .99 to .002
BLOCK_QUERIES = 1024  # queries whose finds are scored again at a time: 60 MB at k = 10 and 384 dimensions


@dataclass(frozen=True)
class SearchEffort:
    """The effort that a kind of index needs: for NEAR, FAR and DEEP neighbours, and the recall of the NEAR with it, as measured.

    `deep` is None where no effort found so many: they lie beyond the clusters in which the index finds its way. `built` is the number
    of vectors that the index was built over; the others have been added since.
    """

    kind: Kind
    near: int
    far: int
    deep: int | None
    recall: float
    built: int

    def for_neighbours(self, k: int) -> int | None:
        """Return the effort for k neighbours, in between of what was measured; None beyond it."""
        if k <= FAR:
            return _between(k, NEAR, self.near, FAR, self.far)
        if self.deep is None or k > DEEP:
            return None
        return _between(k, FAR, self.far, DEEP, self.deep)

    def widened(self, other: SearchEffort) -> SearchEffort:
        """Return what the queries of both need."""
        deep = None if self.deep is None or other.deep is None else max(self.deep, other.deep)
        near, far = max(self.near, other.near), max(self.far, other.far)
        return replace(self, near=near, far=far, deep=deep, recall=min(self.recall, other.recall))


def _between(k: int, low: int, at_low: int, high: int, at_high: int) -> int:
    return math.ceil(at_low + (at_high - at_low) * max(0.0, (k - low) / (high - low)))


@dataclass(frozen=True, eq=False)
class ApproximateIndex:
    """A FAISS index over the `count` vectors of a segment.

    It holds them in the order of their positions, but for those that were `held_out` while it was measured: they come last of those
    that it was built over.
    """

    index: Any  # faiss.IndexHNSWSQ or faiss.IndexIVFScalarQuantizer; FAISS has no types
    count: int
    effort: SearchEffort
    path: Path | None = None  # of the file that is mapped into memory
    memory_bytes: int = 0  # of that file

    @classmethod
    def read(cls, path: Path, effort: SearchEffort) -> ApproximateIndex:
        """Open an index as a memory-mapped file. The file is trusted: whoever calls has compared its checksum."""
        flags = faiss.IO_FLAG_MMAP_IFC if effort.kind == "hnsw" else faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
        index = faiss.read_index(str(path), flags)
        return cls(index, int(index.ntotal), effort, path, path.stat().st_size)

    def candidates(self, k: int, size: int) -> int | None:
        """Return how many of the nearest of all to ask for, where k of `size` selected ones are wanted.

        None where comparing with every selected vector costs less, or no effort is known that finds so many.
        """
        if size == self.count:
            return self._worth(k, size)
        share = max(size, 1) / self.count
        # A filter seldom allows the same share everywhere: look up to two and a half times as far as if it did.
        return self._worth(max(2 * k, math.ceil((2.5 - share) * k / share)), size)

    def _worth(self, candidates: int, size: int) -> int | None:
        effort = self.effort.for_neighbours(candidates)
        if effort is None:
            return None
        compared = VECTORS_PER_EF * effort if self.effort.kind == "hnsw" else effort * self.count / self.index.nlist
        return None if size <= compared else candidates

    def search(
        self, vectors: Vector, queries: Vector, k: int, candidates: int, selected: PositionSet | None
    ) -> tuple[Vector, Positions, npt.NDArray[np.bool_]]:
        """Search for the k nearest among the selected (None: all), looking at the nearest `candidates` of all.

        Returns:
            cosines [Q, k] and positions [Q, k], best first, and bool [Q]: whether as many as wanted were found.
        """
        wanted = min(max(candidates, rescored(k)), self.count)
        effort = self.effort.for_neighbours(candidates)
        assert effort is not None  # `candidates` asks for no more than it is known for
        at = self._find(queries, wanted, effort)
        size = self.count if selected is None else len(selected)
        if selected is None:
            sure = np.count_nonzero(at >= 0, axis=1) >= k
        else:
            at, sure = _allowed(at, selected, k, int(TRUSTED * candidates))
        scores, at = self._rescored(vectors, queries, at, k)
        wider = self._worth(WIDER * candidates, size)
        if wider is not None and not sure.all():
            scores[~sure], at[~sure], sure[~sure] = self.search(vectors, queries[~sure], k, wider, selected)
        return scores, at, sure

    def _find(self, queries: Vector, wanted: int, effort: int) -> Positions:
        """Return positions [Q, wanted], nearest first, -1 where fewer were found. The effort is a parameter of the call."""
        if self.effort.kind == "hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=max(effort, wanted))  # FAISS' own rule, said aloud
        else:
            parameters = faiss.SearchParametersIVF(nprobe=min(effort, self.index.nlist))
        _, at = self.index.search(queries, wanted, params=parameters)
        return self._position_of[at].astype(np.int64)

    @functools.cached_property
    def _position_of(self) -> npt.NDArray[np.int32]:
        """The position of what stands at each place of the index, and -1 at the end, for place -1."""
        built = np.arange(self.effort.built, dtype=np.int32)
        held = held_out(self.effort.built)
        later = np.arange(self.effort.built, self.count, dtype=np.int32)
        return np.concatenate([np.delete(built, held), built[held], later, np.array([-1], np.int32)])

    def _rescored(self, vectors: Vector, queries: Vector, at: Positions, k: int) -> tuple[Vector, Positions]:
        """Return the k best of the finds [Q, *] by their true cosines, equal ones by position."""
        scores = np.empty(at.shape, np.float32)
        for start in range(0, len(queries), BLOCK_QUERIES):
            block = slice(start, start + BLOCK_QUERIES)
            scores[block] = np.matmul(vectors[at[block]], queries[block][:, :, None])[:, :, 0]
        scores[at < 0] = -np.inf
        sharpen(scores, queries, vectors, at)
        order = np.lexsort((at, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(at, order, axis=1)


@functools.lru_cache(maxsize=64)  # a few main segments at a time
def held_out(count: int) -> Positions:
    """Return which of `count` vectors an index is measured with before it gets them: positions, ascending; always the same."""
    return np.sort(np.random.default_rng(count).choice(count, held_out_of(count), replace=False))


def held_out_of(count: int) -> int:
    """Return how many of `count` vectors are held out."""
    return min(HELD_OUT, max(1, count // 10))


def rescored(k: int) -> int:
    """Return how many finds are scored again for k neighbours."""
    return k + min(2 * k, SPARE)


def _allowed(at: Positions, selected: PositionSet, k: int, trusted: int) -> tuple[Positions, npt.NDArray[np.bool_]]:
    """Take the finds [Q, *] that are not selected out: those left, in their order and -1 at the end, and where they suffice.

    They do where the k-th left is among the first `trusted` of all.
    """
    allowed = (at >= 0) & bits(selected.bitmap(), np.maximum(at, 0))
    sure = np.count_nonzero(allowed[:, :trusted], axis=1) >= k
    order = np.argsort(~allowed, axis=1, kind="stable")[:, : rescored(k)]
    return np.where(np.take_along_axis(allowed, order, axis=1), np.take_along_axis(at, order, axis=1), -1), sure
