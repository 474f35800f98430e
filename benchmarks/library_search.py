"""Searches of the library beside those of its peers: at equal recall, through filters, after deletes."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
from library_data import Data, Numbers, Vectors, kth_cosines, recall
from library_load import CLIENTS, alone, at_clients
from library_peers import Exact, Hnswlib, Usearch, tune
from machine import seconds
from numpy.typing import NDArray

from backbone.machine import usable_cores
from service.library.collection import Collection
from service.library.search import SearchOptions
from service.store.filters import parse_filter

LIMIT, TARGET_RECALL = 10, 0.99
EXACT_RECALL = 0.9995  # from here on ours compared with everything; the graphs of the peers are held to the target then
ROUNDS = 5
EXACT_QUERIES = 50  # of a round: comparing with everything takes its time
FILTERED_QUERIES = 200
PEER_FILTERED_QUERIES = 20  # hnswlib asks a Python function about every vector that it meets
SELECTIVITIES = (500, 100, 10, 1)  # thousandths
DELETED_SHARE = 0.1

Search = Callable[[Vectors], Numbers]  # of queries [Q, D], the positions [Q, k] that the nearest have in the data


class Comparison:
    """One collection and its peers over the same vectors."""

    def __init__(self, collection: Collection, data: Data, cache: Path) -> None:
        """Build the peers, or read them from the cache."""
        self.collection, self.data = collection, data
        self.alive = np.ones(len(data.vectors), np.bool_)
        self.exact = Exact(data.vectors)
        self.graphs = (Hnswlib(data, cache), Usearch(data, cache))
        for peer in self.graphs:
            built = "was in the cache" if peer.built_s is None else f"built in {peer.built_s:.0f} s on every core"
            print(f"{peer.name}: {built}, {peer.bytes / 2**20:,.0f} MB, read in {peer.opened_s:.1f} s", flush=True)

    def unfiltered(self, what: str) -> None:
        """Compare recall, rates and latencies; the graphs of the peers look no further than the recall demands."""
        queries = self.data.queries
        kth = kth_cosines(self.data.vectors, queries, LIMIT, self.alive)

        def recall_of(search: Search) -> float:
            return recall(self.data.vectors, queries, search(queries), kth)

        ours, with_records = self.view(), self.with_records()
        reached = recall_of(ours)
        print(f"{what}: dinodex, recall@10 {reached:.4f} (goal: {TARGET_RECALL})")
        wanted = reached if TARGET_RECALL <= reached < EXACT_RECALL else TARGET_RECALL
        many: dict[str, Search] = {"dinodex": ours}
        single: dict[str, Search] = {"dinodex": ours, "dinodex with records": with_records}
        for peer in self.graphs:
            ef, at = tune(peer, lambda peer=peer: recall_of(lambda q: peer.search(q, LIMIT, usable_cores())), wanted)
            print(f"{what}: {peer.name}, recall@10 {at:.4f} at ef {ef}")
            many[peer.name] = lambda q, peer=peer: peer.search(q, LIMIT, usable_cores())
            single[peer.name] = lambda q, peer=peer: peer.search(q, LIMIT, 1)
        exact = {self.exact.name: lambda q: self.exact.search(q, LIMIT, usable_cores())}
        report(f"{what}, all queries at once", rates(many, queries) | rates(exact, queries[:EXACT_QUERIES]))
        for name, search in single.items():
            print(f"{what}, one query after the other, {name}: {alone(search, queries)}")
        report(
            f"{what}, {CLIENTS} clients", rates(single, queries, lambda search, q: len(q) / at_clients(search, q)[0])
        )

    def view(self) -> Search:
        """Return the search of the index alone, which knows vectors and no records, as the peers do."""
        point_set = self.collection.point_set()
        positions = np.flatnonzero(self.alive)  # rows ascend as the points were put
        return lambda q: positions[np.searchsorted(point_set.rows, point_set.view.search(q, LIMIT)[1])]

    def with_records(self, condition: object = None) -> Search:
        """Return the search as users have it, with ids and payloads and through a filter."""
        parsed = None if condition is None else parse_filter(condition)

        def search(queries: Vectors) -> Numbers:
            hits = self.collection.query(queries, LIMIT, SearchOptions(parsed))
            found = np.full((len(queries), LIMIT), -1)
            for number, of in enumerate(hits):
                found[number, : len(of)] = [int(hit.id) for hit in of]
            return found

        return search

    def filtered(self) -> None:
        """Compare filters of several selectivities, those that know nothing of the vectors and those that follow clusters."""
        queries = self.data.queries[:FILTERED_QUERIES]
        for key, values in (("random", self.data.random), ("cluster", self.data.cluster)):
            for below in SELECTIVITIES:
                allowed = values < below
                if np.count_nonzero(allowed) < LIMIT:
                    continue
                self._filtered(key, below, allowed, queries)

    def _filtered(self, key: str, below: int, allowed: NDArray[np.bool_], queries: Vectors) -> None:
        kth = kth_cosines(self.data.vectors, queries, LIMIT, allowed)
        ours = self.with_records({"must": [{"key": key, "range": {"lt": below}}]})
        first = seconds(lambda: ours(queries[:1]))
        reached = recall(self.data.vectors, queries, ours(queries), kth)
        latencies = alone(ours, queries)
        exact = alone(lambda q: self.exact.search_allowed(q, LIMIT, allowed), queries[:EXACT_QUERIES])
        share, peer = np.mean(allowed), self.graphs[0]
        few = queries[:PEER_FILTERED_QUERIES]
        ef, peer_recall = tune(
            peer,
            lambda: recall(self.data.vectors, few, peer.search_allowed(few, LIMIT, allowed), kth[: len(few)]),
            TARGET_RECALL,
        )
        theirs = alone(lambda q: peer.search_allowed(q, LIMIT, allowed), few)
        print(
            f"filter on a {key} number, {share:.1%} allowed: recall@10 {reached:.4f} (goal: {TARGET_RECALL}), {latencies}, "
            f"the first {first * 1e3:.1f} ms; ratio of p50 to FAISS exact {exact.percentile(50) / latencies.percentile(50):.1f}, "
            f"to hnswlib with a Python filter (recall {peer_recall:.3f}, ef {ef}) "
            f"{theirs.percentile(50) / latencies.percentile(50):.1f}",
            flush=True,
        )

    def delete(self) -> None:
        """Delete a tenth of the points everywhere."""
        gone = np.flatnonzero(np.random.default_rng(0).random(len(self.alive)) < DELETED_SHARE)
        self.alive[gone] = False
        ours = seconds(lambda: self.collection.delete([f"{at:09d}" for at in gone]))
        took = ", ".join(f"{peer.name} {seconds(lambda peer=peer: peer.delete(gone)):.1f}" for peer in self.graphs)
        print(f"{len(gone):,} points deleted: {ours:.1f} s, durably; in memory alone: {took} s", flush=True)


def rates(
    searches: dict[str, Search], queries: Vectors, time_of: Callable[[Search, Vectors], float] | None = None
) -> dict[str, float]:
    """Return queries/s of each search, the median over rounds in which all take their turn."""
    measured: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(ROUNDS):
        for name, search in searches.items():
            took = seconds(lambda search=search: search(queries)) if time_of is None else time_of(search, queries)
            measured[name].append(len(queries) / took)
    return {name: statistics.median(of) for name, of in measured.items()}


def report(what: str, measured: dict[str, float]) -> None:
    """Print rates and how they compare."""
    ours, *others = measured.items()
    said = "; ".join(f"{name} {rate:,.0f}, ratio {ours[1] / rate:.2f}" for name, rate in others)
    print(f"{what}: {ours[0]} {ours[1]:,.0f} queries/s; {said} (goal: 1)", flush=True)
