"""The store beside what it stands on: durable ingest beside a bare SQLite insert of the same bytes, search beside numpy.

python benchmarks/store.py [POINTS]
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from pathlib import Path

import numpy as np
from machine import describe, median_seconds, seconds
from numpy.typing import NDArray

from service.library import Collection, Library
from service.points import NewPoint

DIMENSION, BATCH, QUERIES, LIMIT = 384, 256, 50, 10


def main(points: int) -> None:
    """Print each figure with its ratio to the peer of the same run."""
    print(describe())
    vectors = np.random.default_rng(0).normal(size=(points, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with tempfile.TemporaryDirectory() as folder:
        library = Library.open(Path(folder) / "library")
        collection, _ = library.create("bench", "0" * 64, DIMENSION, keep="none")
        ours = points / seconds(lambda: ingest(collection, vectors))
        bare = points / seconds(lambda: bare_insert(Path(folder) / "bare.sqlite3", vectors))
        print(
            f"durable ingest, batches of {BATCH}: {ours:,.0f} points/s; bare SQLite insert {bare:,.0f}; ratio {ours / bare:.2f}"
        )
        search(collection, vectors)
        library.close()
        opened = median_seconds(lambda: Library.open(Path(folder) / "library").close())
        print(f"open with {points:,} points: {opened:.2f} s")


def ingest(collection: Collection, vectors: NDArray[np.float32]) -> None:
    """Put all vectors with a label, a batch a commit."""
    for start in range(0, len(vectors), BATCH):
        rows = range(start, min(start + BATCH, len(vectors)))
        collection.put(
            [NewPoint(f"{row:09d}", row.to_bytes(32, "big"), vectors[row], label=f"l{row % 10}") for row in rows]
        )


def bare_insert(path: Path, vectors: NDArray[np.float32]) -> None:
    """Insert ids and vectors alone, with the same durability and the same batches."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE points (id TEXT PRIMARY KEY, vector BLOB) WITHOUT ROWID")
    for start in range(0, len(vectors), BATCH):
        rows = range(start, min(start + BATCH, len(vectors)))
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO points VALUES (?, ?)", [(f"{row:09d}", vectors[row].tobytes()) for row in rows]
        )
        connection.execute("COMMIT")
    connection.close()


def search(collection: Collection, vectors: NDArray[np.float32]) -> None:
    """Compare single queries with a numpy product and partial sort over the same matrix."""
    queries = vectors[:: max(len(vectors) // QUERIES, 1)][:QUERIES]

    def by_numpy() -> None:
        for query in queries:
            scores = vectors @ query
            np.argpartition(-scores, LIMIT)[:LIMIT]

    def by_collection() -> None:
        for query in queries:
            collection.query(query[None], LIMIT)

    ours, numpy = median_seconds(by_collection) / len(queries), median_seconds(by_numpy) / len(queries)
    print(
        f"exact query over {len(vectors):,}: {ours * 1e3:.1f} ms with records; "
        f"numpy without {numpy * 1e3:.1f} ms; ratio {numpy / ours:.2f}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)
