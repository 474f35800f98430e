"""S46, S47: a disk that is full, and one whose flushes fail."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import pytest
from faults.library.history import check, opened
from faults.library.kills import ENVIRONMENT, PYTHON
from faults.library.small import small

from service.errors import StorageFull
from service.library.library import Collection, Library
from service.library.search import SearchOptions
from service.points import NewPoint, hash_vector, unit_rows
from service.store.database import DATABASE_NAME

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a file system in memory on a folder; skip the test where that is not allowed."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@dataclass
class Filled:
    """The outcome on a disk that was full again and again."""

    times: int = 0
    acknowledged: int = 0
    refused: int = 0
    searches: int = 0

    def __str__(self) -> str:
        return (
            f"a disk of 16 MB filled {self.times} times: {self.acknowledged} puts acknowledged and all there, {self.refused} refused as"
            f" storage_full with nothing of them stored, {self.searches} searches answered meanwhile, puts work again without a restart"
        )


DIMENSION = 64
LEAST_RECALL = 0.99  # what the library promises of searches that need not be exact


class Bulk:
    """Points with pictures, put in batches of 20 until the disk is full, and what must be there."""

    def __init__(self, collection: Collection, draw: Random) -> None:
        self.collection, self.draw = collection, draw
        self.number = self.asked = self.found = 0
        self.stored: dict[str, int] = {}

    def vector(self, number: int) -> np.ndarray:
        return np.random.default_rng(number).normal(size=DIMENSION)

    def put(self) -> bool:
        """Put a batch of points whose pictures take up to 1 KB each; return whether it was acknowledged."""
        numbers = range(self.number, self.number + 20)
        self.number += 20
        points = [
            NewPoint(
                f"{n}", hash_vector(self.vector(n)), self.vector(n), None, {"n": n}, bytes(self.draw.randrange(1000))
            )
            for n in numbers
        ]
        try:
            self.collection.put(points)
        except StorageFull:
            return False
        self.stored |= {f"{n}": n for n in numbers}
        return True

    def search(self) -> None:
        """Search for some of the points; only an exact search must find each, but every search must answer."""
        some = self.draw.sample(sorted(self.stored), min(10, len(self.stored)))
        queries = [self.vector(self.stored[id_]) for id_ in some]
        hits = self.collection.query(queries, 1, SearchOptions(exact=True))
        assert [[hit.id for hit in found] for found in hits] == [[id_] for id_ in some]
        self.asked += len(some)
        self.found += sum(hits[0].id == id_ for hits, id_ in zip(self.collection.query(queries, 1), some, strict=True))

    def check(self) -> None:
        assert self.collection.count() == self.collection.stats().points == len(self.stored)
        for id_, number in self.stored.items():
            vector = self.collection.point(id_, with_vector=True).vector
            assert np.array_equal(vector, unit_rows([self.vector(number)], DIMENSION)[0])


def fill_up(disk: Path, times: int, seed: int) -> Filled:
    """Fill a disk around a library `times` times, leaving a little more or less, and free it again."""
    draw, found, filler = Random(seed), Filled(), disk / "filler"
    with small():
        with Library.open(disk / "data", threads=1) as library:
            bulk = Bulk(library.create("c", "f", DIMENSION)[0], draw)
            assert bulk.put()
            for _ in range(times):
                left = draw.choice([0, 1, draw.randrange(2**12), draw.randrange(2**16), draw.randrange(2**18)])
                use_up(filler, left)
                for _ in range(20):
                    if bulk.put():
                        found.acknowledged += 1
                    else:
                        found.refused += 1
                    bulk.search()
                    found.searches += 1
                found.times += 1
                filler.unlink()
                assert library.writable
                assert bulk.put(), "there is room again"
                found.acknowledged += 1
                bulk.check()
                # older points make room, so that the disk can be filled as often as one likes
                gone = draw.sample(sorted(bulk.stored), len(bulk.stored) * 2 // 3)
                assert bulk.collection.delete(ids=gone) == len(gone)
                for id_ in gone:
                    del bulk.stored[id_]
        with Library.open(disk / "data", threads=1) as library:
            bulk.collection = library.collection("c")
            bulk.check()
            bulk.search()
    assert found.refused
    assert bulk.found >= LEAST_RECALL * bulk.asked
    return found


def use_up(filler: Path, left: int) -> None:
    """Use up what the disk has, but for `left` bytes."""
    with filler.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
        file.truncate(max(0, file.tell() - left))


@dataclass
class Injected:
    """The outcome when one call after the other failed."""

    injected: dict[str, int] = field(default_factory=dict)
    while_opening: int = 0
    refused_writes: int = 0
    nobody_waited: int = 0  # folding the log in, or saving a main segment: the next write is refused, or nothing is

    def __str__(self) -> str:
        calls = ", ".join(f"{count} times {name}" for name, count in self.injected.items())
        return (
            f"{calls}: {self.while_opening} refused to open, {self.refused_writes} refused the write and, but for a full"
            f" disk, every later one until a restart, {self.nobody_waited} failed where nobody waited; all restarted with every"
            " acknowledged write"
        )


def fail_calls(folder: Path, call: str, error: str, numbers: list[int], writes: int, found: Injected) -> bool:
    """Let the n-th call of each thread fail, for each n; return whether the last one was reached at all."""
    reached = [
        _failing_session(folder / "data", call, error, number, writes, fresh, found)
        for number in numbers
        for fresh in (True, False)
    ]
    return any(reached[-2:])


def _failing_session(data: Path, call: str, error: str, number: int, writes: int, fresh: bool, found: Injected) -> bool:
    """Run a session that makes the library, where any call may fail, or one that finds it made, where calls on the log may."""
    only: list[str] = []
    if not fresh:
        only = ["-P", str(data / f"{DATABASE_NAME}-wal")]  # else a call of the opening fails first
        with small(), Library.open(data, threads=1) as library:
            opened(library)
    inject = f"inject={call}:error={error}:when={number}"
    log = data.with_name("strace.log")
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", *only, "-e", f"trace={call}", "-e", inject, "-o", str(log)]
    done = subprocess.run(
        [*strace, *PYTHON, "session", str(data), str(writes)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    reached = "(INJECTED)" in log.read_text()
    what = f"{call} number {number} fails with {error}, fresh={fresh}: {done.stdout} {done.stderr}"
    assert done.returncode in (0, 74), what
    _judge(done.stdout.splitlines(), data, what, found)
    if reached:
        found.injected[f"{call} {error}"] = found.injected.get(f"{call} {error}", 0) + 1
        opening, refused = "refused open" in done.stdout, bool(re.search(r"refused \d", done.stdout))
        found.while_opening += opening
        found.refused_writes += refused
        found.nobody_waited += not opening and not refused
    shutil.rmtree(data, ignore_errors=True)
    return reached


def _judge(said: list[str], data: Path, what: str, found: Injected) -> None:
    """After a failed write nothing is acknowledged and nothing writable until a restart, which finds what was acknowledged.

    A full disk is no failure: as soon as there is room, writes are taken again.
    """
    failed = [i for i, line in enumerate(said) if re.match(r"refused \d+ StorageFailed", line)]
    if failed:
        assert not any(line.startswith("0 ") for line in said[failed[0] :]), what
        assert "writable 0" in said[failed[0] :], what
    acknowledged = sum(line.startswith("0 ") for line in said)
    with small(), Library.open(data, threads=1) as library:
        check(opened(library), [acknowledged], what)
