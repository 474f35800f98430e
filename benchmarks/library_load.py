"""Load on something that searches: batches, one query after the other, several clients at once, writes in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from library_data import Vectors

CLIENTS = 8
WRITE_SHARE = 0.1
Search = Callable[[Vectors], object]  # of queries [Q, D]


@dataclass
class Latencies:
    """How long calls took."""

    seconds: list[float] = field(default_factory=list)

    def time(self, call: Callable[[], object]) -> None:
        """Add a call."""
        start = time.perf_counter()
        call()
        self.seconds.append(time.perf_counter() - start)

    def percentile(self, share: float) -> float:
        """Return milliseconds."""
        return float(np.percentile(self.seconds, share)) * 1e3

    def __str__(self) -> str:
        if not self.seconds:
            return "no call"
        return f"p50 {self.percentile(50):.2f} ms, p99 {self.percentile(99):.2f} ms"


def alone(search: Search, queries: Vectors) -> Latencies:
    """Ask one query after the other."""
    latencies = Latencies()
    for at in range(len(queries)):
        latencies.time(lambda at=at: search(queries[at : at + 1]))
    return latencies


def while_(condition: Callable[[], bool], search: Search, queries: Vectors, most_s: float) -> Latencies:
    """Ask one query after the other for as long as a condition holds, which another thread looks at, and at most so long."""
    latencies, over = Latencies(), threading.Event()

    def watch() -> None:
        end = time.monotonic() + most_s
        while condition() and time.monotonic() < end:
            over.wait(1.0)
        over.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    while not over.is_set():
        at = len(latencies.seconds) % len(queries)
        latencies.time(lambda at=at: search(queries[at : at + 1]))
    watcher.join()
    return latencies


def at_clients(search: Search, queries: Vectors, clients: int = CLIENTS) -> tuple[float, Latencies]:
    """Let clients share the queries, each asking one after the other; return queries/s and all latencies."""
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        parts = list(pool.map(lambda client: alone(search, queries[client::clients]), range(clients)))
    elapsed = time.perf_counter() - start
    return len(queries) / elapsed, Latencies([s for part in parts for s in part.seconds])


def mixed(
    search: Search, write: Callable[[int], object], queries: Vectors, duration_s: float
) -> tuple[float, Latencies, Latencies]:
    """Let clients read nine times of ten and write else; return operations/s, reads and writes. `write` gets a new number."""
    end = time.monotonic() + duration_s

    def client(number: int) -> tuple[Latencies, Latencies]:
        rng, reads, writes = np.random.default_rng(number), Latencies(), Latencies()
        while time.monotonic() < end:
            if rng.random() < WRITE_SHARE:
                writes.time(lambda: write(number + CLIENTS * len(writes.seconds)))
            else:
                at = int(rng.integers(len(queries)))
                reads.time(lambda at=at: search(queries[at : at + 1]))
        return reads, writes

    with ThreadPoolExecutor(CLIENTS) as pool:
        parts = list(pool.map(client, range(CLIENTS)))
    reads = Latencies([s for part, _ in parts for s in part.seconds])
    writes = Latencies([s for _, part in parts for s in part.seconds])
    return (len(reads.seconds) + len(writes.seconds)) / duration_s, reads, writes
