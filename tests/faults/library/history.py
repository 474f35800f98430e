"""Writes of which everything follows from their number, so that what a killed process leaves can be told from its last answer.

Each of several threads writes to points of its own, one write after the other. A write puts, relabels or deletes five points at
once; ids come round again, so that a library stays small however long it is written to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from service.library.library import Collection, Library
from service.library.search import SearchOptions
from service.points import Hit, NewPoint, Point, hash_vector, unit_rows
from service.store.filters import parse_filter

D, BATCH, THREADS = 16, 5, 3
SLOTS = 24  # sets of five points of a thread; each is put again within 3 rounds, for 24 and 5 have no common divisor
PUTS, RELABELS = range(3), 3  # of each five writes; the last one deletes


@dataclass(frozen=True)
class Known:
    """The content that must be stored under an id: the write its content came from, and the last one that set its label and payload."""

    content: int
    said: int

    @property
    def label(self) -> str:
        return f"label {self.said % 7}"

    @property
    def payload(self) -> dict[str, object]:
        return {"n": self.said, "parity": "odd" if self.said % 2 else "even"}

    @property
    def picture(self) -> bytes:
        return b"%d," % self.content * 99


def ids(thread: int, number: int) -> list[str]:
    return [f"{thread}/{number % SLOTS}/{i}" for i in range(BATCH)]


@lru_cache(4096)
def vectors(thread: int, number: int) -> npt.NDArray[np.float32]:
    """Return the vectors [BATCH, D] as they are sent."""
    return np.random.default_rng([thread, number]).normal(size=(BATCH, D)).astype(np.float32)


def effect(thread: int, number: int) -> dict[str, Known | None]:
    """Return what a write makes of each id that it touches; None for gone."""
    kind = number % 5
    if kind in PUTS:
        return dict.fromkeys(ids(thread, number), Known(number, number))
    if kind == RELABELS:
        return dict.fromkeys(ids(thread, number - 1), Known(number - 1, number))
    return dict.fromkeys(ids(thread, number - 3))


@lru_cache(4096)
def expected(thread: int, writes: int) -> Mapping[str, Known]:
    """Return what the first `writes` writes of a thread leave."""
    left: dict[str, Known | None] = {}
    for number in range(max(0, (writes - 5 * SLOTS) // 5 * 5), writes):  # nothing older is left
        left |= effect(thread, number)
    return {id_: known for id_, known in left.items() if known is not None}


def do(collection: Collection, thread: int, number: int) -> None:
    """Make a write."""
    after = effect(thread, number)
    new = []
    for i, (id_, known) in enumerate(after.items()):
        if known is not None:
            vector = vectors(thread, known.content)[i]
            sent = vector if known.content == number else None  # to relabel, the content's hash is enough
            new.append(NewPoint(id_, hash_vector(vector), sent, known.label, known.payload, known.picture))
    if new:
        assert all(outcome.error is None for outcome in collection.put(new, replace=True))
    else:
        collection.delete(ids=list(after))


def opened(library: Library) -> Collection:
    """Return the collection that all writes go to."""
    return library.create("c", "f", D)[0]


def check(collection: Collection, acknowledged: list[int], seed: object = "") -> list[int]:
    """Compare records, pictures and index with what was acknowledged; return how many writes of each thread took effect.

    The write after the last one acknowledged may be there, wholly.
    """
    points = {point.id: point for point in scroll_all(collection)}
    done = [taken(points, thread, count, seed) for thread, count in enumerate(acknowledged)]
    known = {id_: k for thread, writes in enumerate(done) for id_, k in expected(thread, writes).items()}
    assert points.keys() == known.keys(), f"seed {seed}: a point is there that nobody sent"
    assert collection.count() == collection.stats().points == len(known)
    stored = collection.stored(list(known))
    for id_, k in known.items():
        vector = content(id_, k)
        assert np.array_equal(points[id_].vector, unit_rows([vector], D)[0]), f"seed {seed}: the vector of {id_}"
        assert stored[id_].content_hash == hash_vector(vector)
        assert collection.picture(id_) == k.picture
    for exact in (True, False):
        missed = 0
        kinds = {collection.stats().index}
        for hits, (id_, k) in zip(nearest(collection, known, exact), known.items(), strict=True):
            if hits[0].id != id_:
                missed += 1
                continue
            assert abs(hits[0].score - 1) < 1e-5
            assert (hits[0].label, hits[0].payload) == (k.label, k.payload)
        kinds.add(collection.stats().index)  # it may have changed in between
        assert missed <= may_miss(len(known), exact or kinds == {"exact"}), (
            f"seed {seed}: search misses {missed} points"
        )
    for label in {k.label for k in known.values()}:
        condition = parse_filter({"must": [{"key": "label", "match": {"value": label}}]})
        assert collection.count(condition) == sum(k.label == label for k in known.values())
    return done


def may_miss(count: int, exact: bool) -> int:
    """Return how many of `count` points a search for them may not find: 1 in 100 where it need not be exact."""
    return 0 if exact else max(1, count // 100)


def taken(points: dict[str, Point], thread: int, acknowledged: int, seed: object) -> int:
    """Return how many writes of a thread the points show: as many as were acknowledged, or one more."""
    mine = {id_: (p.label, p.payload) for id_, p in points.items() if id_.startswith(f"{thread}/")}
    for writes in (acknowledged, acknowledged + 1):
        if mine == {id_: (k.label, k.payload) for id_, k in expected(thread, writes).items()}:
            return writes
    raise AssertionError(f"seed {seed}: thread {thread} acknowledged {acknowledged} writes, its points differ")


def content(id_: str, known: Known) -> npt.NDArray[np.float32]:
    thread, _, i = map(int, id_.split("/"))
    return vectors(thread, known.content)[i]


def nearest(collection: Collection, known: Mapping[str, Known], exact: bool) -> list[list[Hit]]:
    queries = [content(id_, k) for id_, k in known.items()]
    return collection.query(queries, 1, SearchOptions(exact=exact)) if queries else []


def scroll_all(collection: Collection) -> list[Point]:
    points, cursor = collection.scroll(1000, with_vector=True)
    while cursor is not None:
        page, cursor = collection.scroll(1000, cursor, with_vector=True)
        points += page
    return points
