"""The vector index of one collection, derived: unit vectors in segments, and views of them that never change.

The first segment may be the main one: large, memory-mapped, built in the background (`service/library/builder.py`), with an approximate
index where it pays. Behind it comes the tail, exact, which takes what was written since. A view holds segments as they were;
what is added later goes where no view looks, a delete clears a bit (the tombstone) in a new copy of the segment's bitmap, and a
new main segment replaces the old one and the part of the tail that it holds, at one stroke. So searches need no lock.

FAISS facts this file rests on (1.15): concurrent searches are safe, searches beside an `add` are not, which is why the
tail's buffers are ours and FAISS only reads the part that a view covers; its searches take selectors and parameters per call
and release the interpreter lock; it accepts NaN silently, which is why only `points.unit_rows` output may be added.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from service.index.faiss_threads import faiss_threads
from service.index.positions import packed
from service.index.row_set import RowSet
from service.index.segments import NO_ROW, Segment, best
from service.points import Rows, Vector

__all__ = ["NO_ROW", "Rows", "Segment", "VectorIndex", "View"]

SEGMENT_BYTES = 32 * 2**20  # one copy (compaction) takes some 10 ms; a tail of 50,000 x 384 makes three
# Beyond it, copying a segment of the tail costs less than skipping its tombstones in every search (Qdrant: 0.2).
MAX_DEAD_SHARE = 0.2
# From here on FAISS multiplies matrices (`service/index/faiss_threads.py`) and threads pay. Below, it scans; requests come side by
# side and share the cores better with a core each: 2 threads for one query took 91 ms on 2 busy cores, one thread 11 ms.
BATCH_QUERIES = 20


@dataclass(frozen=True)
class View:
    """A snapshot of the index. It never changes, whatever is written afterwards."""

    dimension: int
    segments: tuple[Segment, ...]
    threads: int = 1  # of a search with many queries

    def __len__(self) -> int:
        return sum(len(s) for s in self.segments)

    @property
    def main(self) -> Segment | None:
        """The main segment, where there is one."""
        return self.segments[0] if self.segments and self.segments[0].fixed else None

    @property
    def tail(self) -> tuple[Segment, ...]:
        """The segments behind the main one."""
        return self.segments if self.main is None else self.segments[1:]

    @property
    def memory_bytes(self) -> int:
        """Bytes of the vectors, their rows, their tombstones and the approximate index, in memory or mapped into it."""
        tombstones = sum(s.alive.nbytes for s in self.segments if s.alive is not None)
        indexes = sum(s.approximate.memory_bytes for s in self.segments if s.approximate is not None)
        return sum(s.count * (4 * self.dimension + 8) for s in self.segments) + tombstones + indexes

    def search(
        self, queries: Vector, k: int, allowed: RowSet | Rows | None = None, exact: bool = False
    ) -> tuple[Vector, Rows]:
        """Find the k nearest by cosine.

        Args:
            queries: float32 [Q, D] of unit rows.
            k: neighbours wanted, capped at what is there.
            allowed: ascending rows to which the search is confined; None for all.
            exact: compare with every vector, also where an approximate index would do.

        Returns:
            scores float32 [Q, k] and rows int64 [Q, k], best first, equal scores by row; NO_ROW with -inf where a
            query has fewer than k neighbours.
        """
        k = min(k, len(self) if allowed is None else min(len(self), len(allowed)))
        if k <= 0 or not len(queries):
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        queries = np.ascontiguousarray(queries, np.float32)
        confined = RowSet(allowed) if isinstance(allowed, np.ndarray) else allowed
        found = []
        with faiss_threads(self.threads if len(queries) >= BATCH_QUERIES else 1):
            for segment in self.segments:
                within = None if confined is None else confined.within(segment)
                part = segment.search(queries, k, within, exact)
                if part is not None:
                    found.append(part)
        if not found:
            return np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), NO_ROW)
        if len(found) == 1:
            return found[0]
        return best([scores for scores, _ in found], [rows for _, rows in found], k)

    def vectors(self, rows: Rows) -> Vector:
        """Return float32 [B, D], the vectors of these rows (ascending, and all of them in the view)."""
        parts = [s.vectors[s.positions(rows)] for s in self.segments]
        return np.concatenate(parts) if parts else np.empty((0, self.dimension), np.float32)

    def rows(self) -> Rows:
        """Return the rows of all vectors, ascending."""
        parts = [s.rows[: s.count][s.mask()] for s in self.segments]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


class VectorIndex:
    """The index of one collection. One thread writes (`add`, `remove`, `swap`); any number take `view()` and search it."""

    def __init__(self, dimension: int, threads: int = 1) -> None:
        self._capacity = max(1, SEGMENT_BYTES // (4 * dimension))
        self._view = View(dimension, (), threads)
        self._sealed = 0  # greatest row that the main segment being built covers; 0 while none is
        self._removed: list[Rows] = []  # of these rows, since then

    def view(self) -> View:
        """Return the index as it is now."""
        return self._view

    def add(self, rows: Rows, vectors: Vector) -> None:
        """Add unit vectors [B, D] under rows [B], which are ascending and greater than every row added before."""
        segments = list(self._view.segments)
        start = 0
        while start < len(rows):
            if not segments or self._full(segments[-1]):
                segments.append(self._empty())
            last = segments[-1]
            room = min(len(last.rows) - last.count, len(rows) - start)
            end = last.count + room
            # beyond `count` no view looks, so writing here disturbs nobody
            last.vectors[last.count : end] = vectors[start : start + room]
            last.rows[last.count : end] = rows[start : start + room]
            alive = None if last.alive is None else packed(np.concatenate([last.mask(), np.ones(room, np.bool_)]))
            segments[-1] = replace(last, count=end, alive=alive)
            start += room
        self._view = replace(self._view, segments=tuple(segments))

    def remove(self, rows: Rows) -> None:
        """Delete rows (ascending; those that are not there are ignored)."""
        if not len(rows):
            return
        if self._sealed:
            self._removed.append(rows)
        segments = [s.without(s.positions(rows)) for s in self._view.segments]
        self._view = replace(self._view, segments=self._compacted(segments))

    def seal(self) -> View:
        """Return the view that a new main segment shall hold; until `swap` or `unseal`, what is removed of it is remembered."""
        last = self._view.segments[-1] if self._view.segments else None
        self._sealed = int(last.rows[last.count - 1]) if last is not None else 0
        self._removed = []
        return self._view

    def unseal(self) -> None:
        """Forget the main segment that was being built."""
        self._sealed, self._removed = 0, []

    def swap(self, main: Segment) -> None:
        """Put a main segment in the place of all that was there when the index was sealed."""
        for rows in self._removed:
            main = main.without(main.positions(rows))
        later = [s for s in self._view.tail if s.count and s.rows[0] > self._sealed]
        self._view = replace(self._view, segments=(main, *later))
        self.unseal()

    def start_from(self, main: Segment, alive: Rows | None) -> None:
        """Begin with a main segment that was on disk, of which `alive` are there (None: all). For an empty index."""
        if alive is not None:
            mask = np.zeros(main.count, np.bool_)
            mask[main.positions(alive)] = True
            main = replace(main, alive=packed(mask), dead=main.count - int(np.count_nonzero(mask)))
        self._view = replace(self._view, segments=(main,))

    def _full(self, last: Segment) -> bool:
        """Say whether a new segment must begin behind this one. One that is being built into the main one takes no more."""
        sealed = last.count > 0 and int(last.rows[last.count - 1]) <= self._sealed
        return last.fixed or sealed or last.count == len(last.rows)

    def _compacted(self, segments: list[Segment]) -> tuple[Segment, ...]:
        """Copy segments of the tail with many tombstones, and join neighbours that fit into one."""
        kept: list[Segment] = []
        for segment in segments:
            if segment.fixed or segment.dead <= MAX_DEAD_SHARE * segment.count:
                kept.append(segment)
                continue
            parts = [segment]
            # only sparse segments are joined, so that a join halves their number and is not repeated at each delete
            if kept and self._joinable(kept[-1], segment):
                parts.insert(0, kept.pop())
            kept += self._joined(parts)
        return tuple(kept)

    def _joinable(self, before: Segment, segment: Segment) -> bool:
        small = before.count + len(segment) <= self._capacity // 2
        # a segment holds rows from one side of the seal only, so that `swap` can tell them apart
        return small and not before.fixed and not before.rows[0] <= self._sealed < segment.rows[segment.count - 1]

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
