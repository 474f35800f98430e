"""S50: threads that put, relabel, delete and search at once, and a history that must be that of one library changed step by step.

Each point belongs to one writer, which numbers its states. A search asks for everything, so it sees the state of every point. The
history is linearizable (Herlihy & Wing, "Linearizability", 1990) if each search sees, of each point, a state that was acknowledged
before it began or was being written while it ran, and no search sees an older state than one that had ended before it began. Points
that are written together are seen together.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from faults.library.history import D, expected, opened, vectors
from faults.library.history import do as write_once
from faults.library.small import small

from service.library.library import Collection, Library
from service.library.search import SearchOptions
from service.points import Hit, unit_rows
from service.store.filters import parse_filter

WRITERS, READERS = 4, 4
EVERYTHING = 10_000


@dataclass(frozen=True)
class Seen:
    """The answer of one search: what it saw of the points of each writer, and when."""

    began: float
    ended: float
    points: dict[str, Hit]
    query: tuple[int, int]


@dataclass
class Raced:
    """Writes with their times, by writer, and what the searches saw."""

    began: list[list[float]] = field(default_factory=lambda: [[] for _ in range(WRITERS)])
    ended: list[list[float]] = field(default_factory=lambda: [[] for _ in range(WRITERS)])
    searches: int = 0
    errors: list[BaseException] = field(default_factory=list)

    def __str__(self) -> str:
        writes = sum(map(len, self.ended))
        return (
            f"{WRITERS} writers made {writes:,} writes while {READERS} readers made {self.searches:,} searches: each saw every"
            f" writer's points as they were in one snapshot of it, and none older ones than a search before it"
        )


def race(directory: Path, seconds: float) -> Raced:
    """Let the threads run for some time; raise AssertionError where the history cannot be."""
    raced, stop, seen = Raced(), threading.Event(), [[] for _ in range(READERS)]  # type: list[list[Seen]]
    with small(), Library.open(directory, threads=1) as library:
        collection = opened(library)
        threads = [threading.Thread(target=_write, args=(collection, w, raced, stop)) for w in range(WRITERS)]
        threads += [threading.Thread(target=_read, args=(collection, r, raced, stop, seen[r])) for r in range(READERS)]
        for thread in threads:
            thread.start()
        stop.wait(seconds)
        stop.set()
        for thread in threads:
            thread.join()
    if raced.errors:
        raise raced.errors[0]
    searches = sorted((s for of_one in seen for s in of_one), key=lambda s: s.ended)
    raced.searches = len(searches)
    for writer in range(WRITERS):
        _check_writer(writer, searches, raced)
    return raced


def _write(collection: Collection, writer: int, raced: Raced, stop: threading.Event) -> None:
    try:
        for number in count():
            if stop.is_set():
                return
            raced.began[writer].append(time.monotonic())
            write_once(collection, writer, number)
            raced.ended[writer].append(time.monotonic())
    except BaseException as error:  # noqa: BLE001 - raised in the main thread
        raced.errors.append(error)


def _read(collection: Collection, reader: int, raced: Raced, stop: threading.Event, seen: list[Seen]) -> None:
    try:
        for number in count():
            if stop.is_set():
                return
            query = (reader, number)
            asked = None
            if number % 4 == 3:  # a filter that selects everything takes another way
                asked = parse_filter({"must": [{"exists": "label"}]})
            began = time.monotonic()
            [hits] = collection.query([vectors(*query)[0]], EVERYTHING, SearchOptions(asked, exact=number % 2 == 0))
            seen.append(Seen(began, time.monotonic(), {hit.id: hit for hit in hits}, query))
            assert len(hits) == len(seen[-1].points), "a point stands twice in an answer"
    except BaseException as error:  # noqa: BLE001 - raised in the main thread
        raced.errors.append(error)


def _check_writer(writer: int, searches: list[Seen], raced: Raced) -> None:
    """Give each search the earliest number of writes that explains what it saw, not before what earlier searches saw."""
    began, ended = raced.began[writer], raced.ended[writer]
    finished: list[tuple[float, int]] = [(float("-inf"), 0)]  # when a search had ended, and the least writes it needs
    for search in searches:
        least = max(bisect_right(ended, search.began), finished[bisect_right(finished, (search.began, 2**62)) - 1][1])
        most = bisect_right(began, search.ended)
        mine = {i: (h.label, h.payload) for i, h in search.points.items() if i.startswith(f"{writer}/")}
        writes = next((w for w in range(least, most + 1) if _explains(writer, w, mine)), None)
        assert writes is not None, f"no state of writer {writer} between {least} and {most} writes is what was seen"
        _check_scores(writer, writes, search)
        finished.append((search.ended, max(writes, finished[-1][1])))


def _explains(writer: int, writes: int, mine: dict[str, tuple[str | None, object]]) -> bool:
    return mine == {i: (k.label, k.payload) for i, k in expected(writer, writes).items()}


def _check_scores(writer: int, writes: int, search: Seen) -> None:
    """Records and index are of one snapshot: each score is that of the content that the record names."""
    query = unit_rows([vectors(*search.query)[0]], D)[0]
    for id_, known in list(expected(writer, writes).items())[:: max(1, writes % 7)]:
        vector = unit_rows([vectors(writer, known.content)[int(id_.rsplit("/", 1)[1])]], D)[0]
        assert abs(float(query @ vector) - search.points[id_].score) < 1e-5, f"{id_} has the score of another content"
