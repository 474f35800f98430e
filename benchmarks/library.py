"""The library at a million points: ingest, build, searches, filters, deletes, restart, beside hnswlib, usearch and FAISS exact.

python benchmarks/library.py [--points N] [--quick] [--cache FOLDER]; the peers: pip install hnswlib usearch

Every figure is printed beside the peer of the same run, and the goal where there is one. All take their turn in every round, and
the median counts, for these machines are shared and noisy.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import time
from pathlib import Path

import numpy as np
from library_data import Data, Vectors, clustered, fashion_mnist
from library_load import alone, mixed, while_
from library_restart import restart
from library_search import Comparison
from machine import describe, seconds

from service.library.library import Collection, Library
from service.points import NewPoint

BATCH = 256  # points of a put
READY_POINTS = 200_000  # put as vectors alone
GROWTH = 0.0125  # of the points, put in later: more than the tail may hold, so that a build begins
LEAST_GROWTH = 5_000
STEADY_QUERIES = 2_000
FEWEST_QUERIES = 200  # of which a p99 says something
BUILD_WATCH_S, MIXED_S = 120.0, 20.0


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="100,000 points")
    parser.add_argument("--cache", type=Path, help="keeps vectors and the peers' graphs for the next run")
    arguments = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as scratch:
        cache = arguments.cache or Path(scratch) / "cache"
        cache.mkdir(parents=True, exist_ok=True)
        benchmark(clustered(100_000 if arguments.quick else arguments.points, cache), Path(scratch), cache)
        pictures = fashion_mnist()
        if pictures is None:
            print("\nFashion-MNIST is not on this machine (Debian's package dataset-fashion-mnist)")
        else:
            benchmark(pictures, Path(scratch), cache)


def benchmark(data: Data, scratch: Path, cache: Path) -> None:
    """Measure everything over one data set."""
    print(
        f"\n{data.name}: {len(data.vectors):,} x {data.vectors.shape[1]}, {len(data.queries):,} unseen queries",
        flush=True,
    )
    folder = scratch / data.name
    with Library.open(folder) as library:
        ready, _ = library.create("ready", "0" * 64, data.vectors.shape[1], keep="none")
        load(ready, data, scratch / "bare.sqlite3", min(READY_POINTS, len(data.vectors)), with_payload=False)
        library.drop("ready")
        collection, _ = library.create("bench", "0" * 64, data.vectors.shape[1], keep="none")
        load(collection, data, scratch / "bare.sqlite3", len(data.vectors), with_payload=True)
        settle(collection)
        comparison = Comparison(collection, data, cache)
        comparison.unfiltered("all points")
        comparison.filtered()
        comparison.delete()
        comparison.unfiltered("a tenth deleted")
        del comparison
        while_building(collection, data)
        reads_and_writes(collection, data)
    restart(folder, data.queries)


def load(collection: Collection, data: Data, bare_path: Path, count: int, with_payload: bool) -> None:
    """Put points, taking turns with a bare insert of the same bytes under the same durability.

    Of a payload, each field is indexed for filters, which the bare insert does not do: two more pages that nothing else needs, a point.
    """
    bare = sqlite3.connect(bare_path, isolation_level=None)
    bare.execute("PRAGMA journal_mode = WAL")
    bare.execute("PRAGMA synchronous = FULL")
    bare.execute("CREATE TABLE points (id TEXT PRIMARY KEY, payload TEXT, vector BLOB) WITHOUT ROWID")
    ours, theirs = 0.0, 0.0
    for start in range(0, count, BATCH):
        rows = range(start, min(start + BATCH, count))
        points = [new_point(row, data.vectors[row], data.payload(row) if with_payload else None) for row in rows]
        ours += seconds(lambda points=points: collection.put(points))
        records = [(p.id, str(p.payload), p.vector.tobytes()) for p in points]
        theirs += seconds(lambda records=records: insert(bare, records))
    bare.close()
    bare_path.unlink()
    rate, peer = count / ours, count / theirs
    what = "with two filter fields a point" if with_payload else "ready vectors"
    print(
        f"durable ingest, {count:,} points in batches of {BATCH}, {what}: {rate:,.0f} points/s; "
        f"bare SQLite insert of the same bytes {peer:,.0f}; ratio {rate / peer:.2f} (goals: 10,000 points/s; 0.5)",
        flush=True,
    )


def new_point(row: int, vector: Vectors, payload: dict[str, int] | None) -> NewPoint:
    """Return a point to put, under its number."""
    return NewPoint(f"{row:09d}", row.to_bytes(32, "big"), vector, payload=payload)


def insert(connection: sqlite3.Connection, records: list[tuple[str, str, bytes]]) -> None:
    """Insert in one transaction."""
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO points VALUES (?, ?, ?)", records)
    connection.execute("COMMIT")


def settle(collection: Collection) -> None:
    """Wait until no main segment is being built, and say what there is."""
    waited = seconds(lambda: wait(collection))
    stats = collection.stats()
    measured = "" if stats.measured_recall is None else f", recall {stats.measured_recall:.4f} by its own measure"
    print(
        f"index: {stats.index}{measured}, {stats.tail:,} points in the tail; "
        f"ready {waited:.0f} s later; {stats.memory_bytes / 2**20:,.0f} MB with the vectors",
        flush=True,
    )


def wait(collection: Collection) -> None:
    """Return when nothing is being built."""
    while collection.stats().building:
        time.sleep(0.5)


def while_building(collection: Collection, data: Data) -> None:
    """Put so many points that a build begins, and compare the latencies before, during and after it."""
    queries = np.resize(data.queries, (STEADY_QUERIES, data.queries.shape[1]))

    def search(query: Vectors) -> object:
        return collection.query(query, 10)

    before = alone(search, queries)
    count = max(int(GROWTH * len(data.vectors)), LEAST_GROWTH)
    for start in range(0, count, BATCH):
        rows = range(start, min(start + BATCH, count))
        collection.put([new_point(len(data.vectors) + r, data.vectors[r], data.payload(r)) for r in rows])
    began = time.perf_counter()
    during = while_(lambda: collection.stats().building, search, queries, BUILD_WATCH_S)
    settle(collection)
    build_s = time.perf_counter() - began
    after = alone(search, queries)
    if len(during.seconds) < FEWEST_QUERIES:
        print(f"the build was over after {len(during.seconds)} queries, too few for a p99")
        return
    print(f"latency of a query with records, before a build: {before}; during: {during}; after: {after}")
    ratio = during.percentile(99) / before.percentile(99)
    print(
        f"build of the main segment, searched meanwhile: {build_s:.0f} s; p99 during over before {ratio:.2f} (goal: 2 at most)"
    )


def reads_and_writes(collection: Collection, data: Data) -> None:
    """Let eight clients read and write."""
    first = 2 * len(data.vectors)

    def write(number: int) -> None:
        at = number % len(data.vectors)
        collection.put([new_point(first + number, data.vectors[at], data.payload(at))])

    rate, reads, writes = mixed(lambda query: collection.query(query, 10), write, data.queries, MIXED_S)
    print(
        f"8 clients, nine reads to a durable write: {rate:,.0f} operations/s; reads {reads}; writes {writes}",
        flush=True,
    )


if __name__ == "__main__":
    main()
