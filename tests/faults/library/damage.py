"""S48, S49: a file of the library cut off or changed, and whatever is then answered must be what was stored.

A damaged library may start on a consistent prefix of what was written, may refuse to start, and may refuse an answer with an error of
its own tree. It may not give a wrong answer, and not raise anything else.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import numpy as np
from faults.library.harmed_segments import settled
from faults.library.history import Known, content, do, expected, nearest, opened, scroll_all
from faults.library.small import small

from service.errors import CollectionMissing, LibraryInvalid, PointMissing, ServiceError
from service.library.library import Collection, Library
from service.points import unit_rows
from service.store.database import DATABASE_NAME
from service.store.filters import parse_filter

T = TypeVar("T")

WRITES = 37
FOLDED = (
    WRITES,
    30,
)  # of them, in the database; the others are in the log. A log hides what is wrong with the pages it holds
SECTOR = 512
WAL = f"{DATABASE_NAME}-wal"
EMPTY = (
    f"{DATABASE_NAME} cut at 0"  # as a start leaves it that was killed at once: nobody can tell that it held anything
)


@dataclass
class Verdicts:
    """The outcome of opening damaged libraries."""

    seen: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        seen = ", ".join(f"{count} {verdict}" for verdict, count in sorted(self.seen.items()))
        return f"{self.seen.total()} damaged libraries: {seen}; {len(self.wrong)} wrong answers"


def sound_library(folder: Path, folded: int) -> dict[str, bytes]:
    """Return a library's files as a kill would leave them, the first `folded` writes in the database, the others in the log."""
    data = folder / "sound"
    with small():
        with Library.open(data, threads=1) as library:
            for number in range(folded):
                do(opened(library), 0, number)
            settled(opened(library))
        if folded < WRITES:
            library = Library.open(data, threads=1)
            for number in range(folded, WRITES):
                do(opened(library), 0, number)
            settled(opened(library))
        files = {str(p.relative_to(data)): p.read_bytes() for p in sorted(data.rglob("*")) if p.is_file()}
        library.close()
    shutil.rmtree(data)
    return {name: content for name, content in files.items() if not name.endswith(("-shm", ".lock"))}


def cuts(files: dict[str, bytes]) -> list[tuple[str, int]]:
    """Return every file and multiple of a sector where it can be cut off."""
    return [(name, at) for name, data in files.items() for at in range(0, len(data), SECTOR)]


def cut(files: dict[str, bytes], name: str, at: int) -> dict[str, bytes]:
    return files | {name: files[name][:at]}


def flipped(files: dict[str, bytes], draw: Random) -> tuple[str, dict[str, bytes]]:
    """Return a name, and the files with one to three bits of it changed; each file is drawn as often."""
    name = draw.choice(sorted(name for name, data in files.items() if data))
    data = bytearray(files[name])
    where = [(draw.randrange(len(data)), draw.randrange(8)) for _ in range(draw.randint(1, 3))]
    for at, bit in where:
        data[at] ^= 1 << bit
    return f"{name} with bits {where} flipped", files | {name: bytes(data)}


def judge(files: dict[str, bytes], what: str, folder: Path, verdicts: Verdicts) -> None:
    """Open a damaged library, ask it everything, and note what came of it."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    try:
        verdicts.seen[_verdict(folder, what.startswith(WAL) or what == EMPTY)] += 1
    except AssertionError as error:
        verdicts.wrong.append(f"{what}: {str(error).splitlines()[0]}")
        verdicts.seen["wrong"] += 1
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not of the library's tree
        verdicts.wrong.append(f"{what}: raised {error!r}")
        verdicts.seen["wrong"] += 1
    shutil.rmtree(folder)


def _verdict(folder: Path, may_lose: bool) -> str:
    try:
        with small():
            library = Library.open(folder, threads=1)
    except LibraryInvalid:
        return "refused to start"
    with library:
        try:
            collection = library.collection("c")
        except CollectionMissing:
            assert may_lose, "the collection is not there"
            return "started on a prefix"
        return _answers(collection, may_lose)


def _answers(collection: Collection, may_lose: bool) -> str:
    """Ask everything; each answer leaves those prefixes of the writes that it agrees with, and one must be left."""
    left = list(range(WRITES + 1)) if may_lose else [WRITES]
    whole = True
    for name, agrees in _questions(collection):
        try:
            left = [writes for writes in left if agrees(expected(0, writes))]
        except ServiceError as error:
            whole = False
            left = [] if isinstance(error, PointMissing) else left  # it is there: that was a wrong answer
        assert left, name
    if not whole:
        return "refused some answers"
    return "whole" if left[-1] == WRITES else "started on a prefix"


def _questions(collection: Collection) -> Iterator[tuple[str, Callable[[Mapping[str, Known]], bool]]]:
    """Yield the name of a question, and whether its answer is that of a library that holds what is known.

    An answer is asked for once and then compared with one prefix after the other.
    """
    everything = sorted({id_ for writes in range(WRITES + 1) for id_ in expected(0, writes)})
    listed = _once(lambda: {p.id: (p.label, p.payload, _bits(p.vector)) for p in scroll_all(collection)})
    yield "scroll", lambda known: listed() == {i: (k.label, k.payload, _vector(i, k)) for i, k in known.items()}
    counted = _once(lambda: (collection.count(), collection.stats().points, collection.stats().labelled))
    yield "count", lambda known: counted() == (len(known),) * 3
    for id_ in everything:
        yield f"point {id_}", _agrees_on_point(collection, id_)
    for label in [f"label {n}" for n in range(7)]:
        condition = parse_filter({"must": [{"key": "label", "match": {"value": label}}]})
        found = _once(lambda condition=condition: {p.id for p in collection.scroll(1000, filter=condition)[0]})
        counts = _once(lambda condition=condition: collection.count(condition))
        yield (
            label,
            lambda known, found=found, label=label: found() == {i for i, k in known.items() if k.label == label},
        )
        yield (
            f"count of {label}",
            lambda known, counts=counts, label=label: counts() == sum(k.label == label for k in known.values()),
        )
    for exact in (True, False):
        yield f"search, exact={exact}", lambda known, exact=exact: _finds_all(collection, known, exact)


def _agrees_on_point(collection: Collection, id_: str) -> Callable[[Mapping[str, Known]], bool]:
    def ask() -> Any:  # noqa: ANN401 - all that is known of it, or None
        try:
            point = collection.point(id_, with_vector=True)
            return point.label, point.payload, _bits(point.vector), collection.picture(id_)
        except PointMissing:
            return None

    answer = _once(ask)

    def agrees(known: Mapping[str, Known]) -> bool:
        k = known.get(id_)
        return answer() == (None if k is None else (k.label, k.payload, _vector(id_, k), k.picture))

    return agrees


def _finds_all(collection: Collection, known: Mapping[str, Known], exact: bool) -> bool:
    for hits, (id_, k) in zip(nearest(collection, known, exact), known.items(), strict=True):
        if [(h.id, h.label, h.payload) for h in hits] != [(id_, k.label, k.payload)] or abs(hits[0].score - 1) > 1e-5:
            return False
    return True


def _once(ask: Callable[[], T]) -> Callable[[], T]:
    """Ask at the first call; answer later ones from memory."""
    kept: list[T] = []

    def answer() -> T:
        if not kept:
            kept.append(ask())
        return kept[0]

    return answer


def _vector(id_: str, known: Known) -> bytes:
    return unit_rows([content(id_, known)], len(content(id_, known)))[0].tobytes()


def _bits(vector: Any) -> bytes:  # noqa: ANN401 - an array or None
    return b"" if vector is None else np.asarray(vector).tobytes()


def judge_many(folder: Path, cut_share: float, flips: int, seed: int) -> Verdicts:
    """Judge libraries cut off at a share of all places (1 for each), and libraries with flipped bits."""
    draw, verdicts = Random(seed), Verdicts()
    for folded in FOLDED:
        files = sound_library(folder, folded)
        judge(files, "nothing", folder / "damaged", verdicts)
        assert verdicts.seen["whole"], "it is not the damage"
        for name, at in cuts(files):
            if draw.random() < cut_share or at == 0:
                judge(cut(files, name, at), f"{name} cut at {at}", folder / "damaged", verdicts)
        for _ in range(flips):
            what, damaged = flipped(files, draw)
            judge(damaged, what, folder / "damaged", verdicts)
    return verdicts
