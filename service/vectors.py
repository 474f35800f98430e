"""The derived index: unit vectors in memory, searched exactly by FAISS. It holds nothing that SQLite does not.

Vectors stand in segments. A segment's buffers are filled front to back and never rewritten: what a `View` was given stays as
it was, so searches need no lock while vectors are added, deleted and moved. A delete clears a bit (the tombstone) in a new
copy of the segment's bitmap; a segment with too many tombstones is copied without them.

FAISS facts this file rests on (1.15): concurrent searches are safe, searches beside an `add` are not, which is why the
buffers are ours and FAISS only reads the part that a view covers; its brute-force search takes a selector per call and
releases the interpreter lock; it accepts NaN silently, which is why only `points.unit_rows` output may be added.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import faiss
import numpy as np
import numpy.typing as npt

from service.openmp import faiss_threads
from service.points import Vector

Rows = npt.NDArray[np.int64]

SEGMENT_BYTES = (
    32 * 2**20
)  # one copy (compaction) takes some 10 ms; 1M x 384 makes 46 segments, whose calls cost < 1 ms
MAX_DEAD_SHARE = (
    0.2  # beyond it, copying a segment costs less than skipping its tombstones in every search (Qdrant: 0.2)
)
# From here on FAISS multiplies matrices and threads pay. Below, it scans; requests come side by side and share the cores
# better with a core each: 2 threads for one query took 91 ms on 2 busy cores, one thread 11 ms.
BATCH_QUERIES = 20
NO_ROW = -1  # stands where fewer than k vectors could be found


@dataclass(frozen=True)
class Segment:
    """`count` vectors in the order of their rows; `alive` is None while none of them is deleted.

    vectors: float32 [capacity, D], of which [:count] is ours to see; rows: int64 [capacity], ascending;
    alive: uint8 [ceil(count / 8)], bit i of the bitmap (least significant first) says that vector i is there.
    """

    vectors: Vector
    rows: Rows
    count: int
    alive: npt.NDArray[np.uint8] | None = None
    dead: int = 0

    def mask(self) -> npt.NDArray[np.bool_]:
        """Return bool [count]: which vectors are there."""
        if self.alive is None:
            return np.ones(self.count, np.bool_)
        return np.unpackbits(self.alive, count=self.count, bitorder="little").astype(np.bool_)

    def positions(self, rows: Rows) -> Rows:
        """Return where `rows` (ascending) stand, leaving out those that are not of this segment."""
        mine = self.rows[: self.count]
        if not self.count:
            return np.empty(0, np.int64)
        wanted = rows[np.searchsorted(rows, mine[0]) : np.searchsorted(rows, mine[-1], side="right")]
        at = np.searchsorted(mine, wanted)
        here: Rows = at[mine[at] == wanted]
        return here

    def with_mask(self, mask: npt.NDArray[np.bool_]) -> Segment:
        """Return the same vectors with other tombstones."""
        dead = self.count - int(np.count_nonzero(mask))
        return replace(self, alive=np.packbits(mask, bitorder="little") if dead else None, dead=dead)


@dataclass(frozen=True)
class View:
    """The index at one moment. It never changes, whatever is written afterwards."""

    dimension: int
    segments: tuple[Segment, ...]
    threads: int = 1  # of a search with many queries

    def __len__(self) -> int:
        return sum(s.count - s.dead for s in self.segments)

    @property
    def memory_bytes(self) -> int:
        """Bytes that the vectors, their rows and their tombstones take."""
        tombstones = sum(s.alive.nbytes for s in self.segments if s.alive is not None)
        return sum(s.count * (4 * self.dimension + 8) for s in self.segments) + tombstones

    def search(self, queries: Vector, k: int, allowed: Rows | None = None) -> tuple[Vector, Rows]:
        """Find the k nearest by cosine, exactly.

        Args:
            queries: float32 [Q, D] of unit rows.
            k: neighbours wanted, capped at what is there.
            allowed: ascending rows to which the search is confined; None for all.

        Returns:
            scores float32 [Q, k] and rows int64 [Q, k], best first, equal scores by row; NO_ROW with -inf where a
            query has fewer than k neighbours.
        """
        k = min(k, len(self) if allowed is None else min(len(self), len(allowed)))
        if k <= 0 or not len(queries):
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        queries = np.ascontiguousarray(queries, np.float32)
        with faiss_threads(self.threads if len(queries) >= BATCH_QUERIES else 1):
            found = [part for s in self.segments if (part := _search_segment(s, queries, k, allowed)) is not None]
        if not found:
            return np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), NO_ROW)
        scores = np.concatenate([f[0] for f in found], axis=1)
        rows = np.concatenate([f[1] for f in found], axis=1)
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def vectors(self, rows: Rows) -> Vector:
        """Return float32 [B, D], the vectors of these rows (ascending, and all of them in the view)."""
        parts = [s.vectors[s.positions(rows)] for s in self.segments]
        return np.concatenate(parts) if parts else np.empty((0, self.dimension), np.float32)

    def rows(self) -> Rows:
        """Return the rows of all vectors, ascending."""
        parts = [s.rows[: s.count][s.mask()] for s in self.segments]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _search_segment(
    segment: Segment, queries: Vector, k: int, allowed: Rows | None
) -> tuple[Vector, npt.NDArray[np.int64]] | None:
    bitmap = segment.alive
    if allowed is not None:
        mask = np.zeros(segment.count, np.bool_)
        mask[segment.positions(allowed)] = True
        if segment.dead:
            mask &= segment.mask()
        if not mask.any():
            return None
        bitmap = None if mask.all() else np.packbits(mask, bitorder="little")
    scores = np.empty((len(queries), k), np.float32)
    at = np.empty((len(queries), k), np.int64)
    selector = None if bitmap is None else faiss.IDSelectorBitmap(segment.count, faiss.swig_ptr(bitmap))
    faiss.knn_inner_product(
        faiss.swig_ptr(queries),
        faiss.swig_ptr(segment.vectors),
        queries.shape[1],
        len(queries),
        segment.count,
        k,
        faiss.swig_ptr(scores),
        faiss.swig_ptr(at),
        selector,
    )
    none = at < 0
    scores[none] = -np.inf
    return scores, np.where(none, NO_ROW, segment.rows[at])


class VectorIndex:
    """The index of one collection. One thread writes (`add`, `remove`); any number take `view()` and search it."""

    def __init__(self, dimension: int, threads: int = 1) -> None:
        self._capacity = max(1, SEGMENT_BYTES // (4 * dimension))
        self._view = View(dimension, (), threads)

    def view(self) -> View:
        """Return the index as it is now."""
        return self._view

    def add(self, rows: Rows, vectors: Vector) -> None:
        """Add unit vectors [B, D] under rows [B], which are ascending and greater than every row added before."""
        segments = list(self._view.segments)
        start = 0
        while start < len(rows):
            if not segments or segments[-1].count == len(segments[-1].rows):
                segments.append(self._empty())
            last = segments[-1]
            room = min(len(last.rows) - last.count, len(rows) - start)
            end = last.count + room
            # beyond `count` no view looks, so writing here disturbs nobody
            last.vectors[last.count : end] = vectors[start : start + room]
            last.rows[last.count : end] = rows[start : start + room]
            grown = replace(last, count=end)
            segments[-1] = grown if last.alive is None else grown.with_mask(_grown(last.mask(), room))
            start += room
        self._view = replace(self._view, segments=tuple(segments))

    def remove(self, rows: Rows) -> None:
        """Delete rows (ascending; those that are not there are ignored)."""
        segments = []
        for segment in self._view.segments:
            at = segment.positions(rows)
            if len(at):
                mask = segment.mask()
                mask[at] = False
                segment = segment.with_mask(mask)
            segments.append(segment)
        self._view = replace(self._view, segments=self._compacted(segments))

    def _compacted(self, segments: list[Segment]) -> tuple[Segment, ...]:
        """Copy segments with many tombstones, and join neighbours that fit into one."""
        kept: list[Segment] = []
        for segment in segments:
            if segment.dead <= MAX_DEAD_SHARE * segment.count:
                kept.append(segment)
                continue
            parts = [segment]
            # only sparse segments are joined, so that a join halves their number and is not repeated at each delete
            if kept and kept[-1].count + segment.count - segment.dead <= self._capacity // 2:
                parts.insert(0, kept.pop())
            kept += self._joined(parts)
        return tuple(kept)

    def _joined(self, parts: list[Segment]) -> list[Segment]:
        joined = self._empty()
        count = 0
        for part in parts:
            mask = part.mask()
            alive = int(np.count_nonzero(mask))
            joined.vectors[count : count + alive] = part.vectors[: part.count][mask]
            joined.rows[count : count + alive] = part.rows[: part.count][mask]
            count += alive
        return [replace(joined, count=count)] if count else []

    def _empty(self) -> Segment:
        # the pages of an empty buffer cost nothing until they are written
        return Segment(
            np.empty((self._capacity, self._view.dimension), np.float32), np.empty(self._capacity, np.int64), 0
        )


def _grown(mask: npt.NDArray[np.bool_], by: int) -> npt.NDArray[np.bool_]:
    return np.concatenate([mask, np.ones(by, np.bool_)])
