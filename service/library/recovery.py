"""Recovery of the index at the start: from a main segment on disk where all of it is proved good, and only then."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import structlog

from service.errors import LibraryInvalid
from service.index import segment_files
from service.library.builder import IndexedCollection
from service.points import Rows
from service.store.stored_vectors import surviving_rows, vectors_of_rows

COMPARED_VECTORS = 64  # of the segment, with the records: finds a database that was put back from a copy by hand

log = structlog.get_logger("service")


def start(connection: sqlite3.Connection, folder: Path, indexed: IndexedCollection) -> int:
    """Begin a collection's index with its newest good main segment; return the greatest row that need not be read any more.

    What is damaged, or belongs to another state of the library, is left and deleted: 0, and all rows are read.
    """
    identity = indexed.identity
    home = segment_files.folder_of(folder, identity.collection)
    tick = int(connection.execute("SELECT tick FROM clock").fetchone()[0])
    for path in segment_files.generations(home):
        try:
            main = segment_files.read(path, identity, tick)
            alive = surviving_rows(connection, identity.collection, main.last_row, known=main.segment.count)
            _compare(connection, main.segment.rows if alive is None else alive, main)
        except segment_files.SegmentRejected as rejected:
            log.warning("snapshot_refused", collection=identity.collection, detail=str(rejected)[:500])
            continue
        indexed.index.start_from(main.segment, alive)
        segment_files.clear(home, keep=path)
        return main.last_row
    segment_files.clear(home)
    return 0


def _compare(connection: sqlite3.Connection, alive: Rows, main: segment_files.MainSegment) -> None:
    """Raise SegmentRejected unless the rows that are there are the segment's, and some of the vectors are the same."""
    if not len(alive):
        return
    at = main.segment.positions(alive)
    if len(at) != len(alive):
        raise segment_files.SegmentRejected("the library has rows that it lacks")
    some = np.unique(np.linspace(0, len(alive) - 1, COMPARED_VECTORS).astype(np.int64))
    try:
        kept = vectors_of_rows(connection, alive[some], main.segment.vectors.shape[1])
    except LibraryInvalid as damaged:  # what the database says of it comes when all of it is read
        raise segment_files.SegmentRejected(str(damaged)) from damaged
    if not np.array_equal(kept, main.segment.vectors[at[some]]):
        raise segment_files.SegmentRejected("it holds other vectors than the library")
