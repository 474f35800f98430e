"""The builder of main segments, in the background: one thread watches the collections' tails, one child process builds at a time.

The thread takes a view and seals it: what is removed from then on is remembered. It writes the view's vectors into a new
generation, has an approximate index built over them, or the tail's added to the one that there is, and hands the segment to the
writer thread, which puts it in the place of what it was made of. Searches and writes go on all the while. Nothing here is needed
for a right answer: when it fails, the tail stays.
"""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import structlog

from service.concurrency.child_process import ChildFailed
from service.errors import ServiceError
from service.index import build_worker, planner, segment_files
from service.index.build_worker import MORE, VECTORS, Built
from service.index.positions import Positions
from service.index.segments import Segment
from service.index.vector_index import VectorIndex, View
from service.points import Rows, Vector
from service.store.database import Database

WRITE_BLOCK = 16_384  # vectors copied at a time on their way into the file: 25 MB of 384-d vectors
RETRY_S = 60.0  # after a failure: a full disk may have been given room by then

log = structlog.get_logger("service")


class Stopped(Exception):
    """A build that is not wanted any more."""


@dataclass(eq=False)
class IndexedCollection:
    """One collection, as the builder sees it."""

    identity: segment_files.SegmentIdentity
    index: VectorIndex
    dropped: bool = False  # set in the writer thread: nothing of the collection may be reached any more
    waiting: bool = False  # to be built, or being built
    not_before: float = field(default=0.0)  # monotonic seconds
    anew: bool = False  # the last child failed: the next relies on nothing that was there

    def wants(self) -> bool:
        """Say whether it should have a new main segment."""
        view = self.index.view()
        return planner.needs_build(view.main, sum(len(s) for s in view.tail))


class Builder:
    """The thread that builds the main segments of a library."""

    def __init__(self, database: Database, folder: Path, threads: int) -> None:
        self._database = database
        self._folder = folder
        self._threads = threads
        self._queue: queue.SimpleQueue[IndexedCollection | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="library-builder", daemon=True)
        self._thread.start()

    def consider(self, indexed: IndexedCollection) -> None:
        """Look at a collection that was written to, and queue it where it has grown enough. While no write can come between."""
        if not indexed.waiting and indexed.wants() and time.monotonic() >= indexed.not_before:
            indexed.waiting = True
            self._queue.put(indexed)

    def drop(self, indexed: IndexedCollection) -> None:
        """Stop building for a collection that was dropped, and delete its files."""
        indexed.dropped = True
        segment_files.clear(segment_files.folder_of(self._folder, indexed.identity.collection))

    def close(self) -> None:
        """Stop what is being built. A second call does nothing."""
        self._stopping.set()
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (indexed := self._queue.get()) is not None and not self._stopping.is_set():
            try:
                self._build(indexed)
            except Stopped:
                pass
            except Exception as error:  # noqa: BLE001 - boundary: whatever it was, the tail goes on answering
                # whoever writes next, after a while, brings the collection back here
                indexed.not_before, indexed.anew = time.monotonic() + RETRY_S, isinstance(error, ChildFailed)
                if not indexed.dropped:  # else its files went while they were written
                    log.warning("index_build_failed", collection=indexed.identity.collection, detail=repr(error)[:500])
            try:
                with self._database.aligned(functools.partial(self._end, indexed)):
                    pass
            except ServiceError as error:  # an index could not follow a write: none of them is worth building any more
                log.warning("index_builds_stopped", detail=str(error)[:500])
                return

    def _end(self, indexed: IndexedCollection) -> None:
        """Be done with a collection, unless it has grown enough meanwhile. While no write can come between."""
        indexed.index.unseal()
        indexed.waiting = False
        if not self._stopping.is_set() and not indexed.dropped:
            self.consider(indexed)

    def _build(self, indexed: IndexedCollection) -> None:
        self._check(indexed)
        with self._database.aligned(indexed.index.seal) as (connection, view):
            tick = int(connection.execute("SELECT tick FROM clock").fetchone()[0])
        content = _content(view, indexed.anew)
        rows = content.rows()
        if not len(rows):
            return
        folder = segment_files.folder_of(self._folder, indexed.identity.collection)
        path = folder / str(max((int(p.name) for p in segment_files.generations(folder)), default=0) + 1)

        def index(unfinished: Path) -> Built | None:
            if not planner.wants_approximate(len(rows)):
                return None
            dimension = indexed.identity.dimension
            threads = max(1, self._threads // 2)  # the other half answers: with all, searches took 3.5 times as long
            grown = None if content.grown is None else content.grown.approximate
            return build_worker.build(unfinished, dimension, threads, lambda: self._check(indexed), grown)

        blocks = self._watched(indexed, content.blocks())
        into = VECTORS if content.grown is None else MORE
        main = segment_files.write(path, indexed.identity, tick, rows, blocks, index, into).segment
        main = main.without(content.dead())
        self._database.write(lambda _: None, lambda _: indexed.index.swap(main))
        indexed.anew = False
        segment_files.clear(folder, keep=path)
        if indexed.dropped:  # while it was being written
            segment_files.clear(folder)

    def _watched(self, indexed: IndexedCollection, blocks: Iterator[Vector]) -> Iterator[Vector]:
        for block in blocks:
            self._check(indexed)
            yield block

    def _check(self, indexed: IndexedCollection) -> None:
        if self._stopping.is_set() or indexed.dropped:
            raise Stopped


@dataclass(frozen=True)
class _Content:
    """The content of a new main segment: all of the one that is `grown`, as it lies there, and what is alive of the rest."""

    grown: Segment | None
    rest: View

    def rows(self) -> Rows:
        """Return the rows, ascending."""
        return self.rest.rows() if self.grown is None else np.concatenate([self.grown.rows, self.rest.rows()])

    def blocks(self) -> Iterator[Vector]:
        """Yield the vectors of the rest, in the order of the rows: the others are copied from file to file."""
        rows = self.rest.rows()
        for start in range(0, len(rows), WRITE_BLOCK):
            yield self.rest.vectors(rows[start : start + WRITE_BLOCK])

    def dead(self) -> Positions:
        """Return the positions of the tombstones that stay where they are."""
        return np.empty(0, np.int64) if self.grown is None else np.flatnonzero(~self.grown.mask())


def _content(view: View, anew: bool) -> _Content:
    """Return the main segment and the tail, where the one's index may get the other; else all that there is."""
    tail = sum(len(s) for s in view.tail)
    if anew or not planner.may_extend(view.main, tail):
        return _Content(None, view)
    return _Content(view.main, replace(view, segments=view.tail))
