"""The promise: a write that was answered survives SIGKILL; one that was not is wholly there or wholly absent.

A child opens the library without HTTP or torch and writes from several threads; each prints a line once its write has
returned. It is killed at a random moment. The directory must then hold what was acknowledged, or one write more a thread.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from service.library import DATABASE_NAME, Collection, Library
from service.points import Hit, NewPoint, Point, hash_vector

D, BATCH, THREADS, KILLS, SEED = 16, 5, 3, 10, 20261122
DELETE_EVERY = 4  # each fourth write deletes the batch before the last


def batch(thread: int, number: int) -> list[NewPoint]:
    """Return the points of a write: everything about them follows from its number."""
    x = np.random.default_rng([thread, number]).normal(size=(BATCH, D))
    return [
        NewPoint(
            f"{thread}/{number}/{i}", hash_vector(x[i]), x[i], f"label {number}", {"n": number}, b"%d" % number * 99
        )
        for i in range(BATCH)
    ]


def do(collection: Collection, thread: int, number: int) -> None:
    if number % DELETE_EVERY == DELETE_EVERY - 1:
        collection.delete(ids=[p.id for p in batch(thread, number - 2)])
    else:
        collection.put(batch(thread, number))


def expected(thread: int, writes: int) -> set[str]:
    """Return the ids that the first `writes` writes of a thread leave."""
    ids: set[str] = set()
    for number in range(writes):
        if number % DELETE_EVERY == DELETE_EVERY - 1:
            ids -= {p.id for p in batch(thread, number - 2)}
        else:
            ids |= {p.id for p in batch(thread, number)}
    return ids


CHILD = """
import sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_durability import D, do
from service.library import Library
assert "torch" not in sys.modules and "fastapi" not in sys.modules
collection = Library.open(Path(sys.argv[1])).create("c", "f", D)[0]

def write(thread, number):
    while True:
        do(collection, thread, number)
        sys.stdout.write(f"{thread} {number}\\n")
        sys.stdout.flush()
        number += 1

print("open", flush=True)
for thread, number in enumerate(map(int, sys.argv[3:])):
    threading.Thread(target=write, args=(thread, number)).start()
"""


def check(collection: Collection, thread: int, acknowledged: int) -> int:
    """Find what a thread's writes left, whole in records and index; return how many writes took effect."""
    points = {p.id: p for p in scroll_all(collection) if p.id.startswith(f"{thread}/")}
    writes = next((w for w in (acknowledged, acknowledged + 1) if points.keys() == expected(thread, w)), None)
    assert writes is not None, f"seed {SEED}: thread {thread} acknowledged {acknowledged} writes"
    for number in range(max(0, writes - 40), writes):
        for new in batch(thread, number):
            if new.id not in points:
                assert query(collection, new)[0][0].id != new.id
                continue
            point = points[new.id]
            assert (point.label, point.payload) == (new.label, new.payload)
            assert collection.picture(new.id) == new.picture
            assert collection.stored([new.id])[new.id].content_hash == new.content_hash
            hit = query(collection, new)[0][0]
            assert hit.id == new.id
            assert hit.score == pytest.approx(1, abs=1e-6)
    return writes


def query(collection: Collection, point: NewPoint) -> list[list[Hit]]:
    assert point.vector is not None
    return collection.query([point.vector], 1)


def scroll_all(collection: Collection) -> list[Point]:
    points, cursor = collection.scroll(1000)
    while cursor is not None:
        page, cursor = collection.scroll(1000, cursor)
        points += page
    return points


def test_every_acknowledged_write_survives_sigkill_and_none_is_half_there(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    done = [0] * THREADS
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(Path(__file__).parent)]
    for _ in range(KILLS):
        child = subprocess.Popen([*command, *map(str, done)], stdout=subprocess.PIPE, text=True, env=environment)
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        time.sleep(rng.uniform(0, 0.4))
        child.send_signal(signal.SIGKILL)
        lines, _ = child.communicate()
        for line in lines.splitlines(keepends=True):
            if line.endswith("\n"):  # a half line was not an answer
                thread, number = map(int, line.split())
                done[thread] = number + 1
        with Library.open(tmp_path) as library:
            collection = library.create("c", "f", D)[0]
            done = [check(collection, thread, count) for thread, count in enumerate(done)]
            assert collection.count() == collection.stats().points
    assert sum(done) > KILLS


def test_a_log_cut_off_anywhere_leaves_whole_writes_and_all_that_were_synced(tmp_path: Path) -> None:
    """Power loss: what was written after the last fsync may be missing or garbage, from any byte on."""
    live, wal = tmp_path / "live", f"{DATABASE_NAME}-wal"
    with Library.open(live) as library:
        collection = library.create("c", "f", D)[0]
        synced = [(live / wal).stat().st_size]
        for number in range(12):
            do(collection, 0, number)
            synced.append((live / wal).stat().st_size)
        database, log = (live / DATABASE_NAME).read_bytes(), (live / wal).read_bytes()
    rng = random.Random(SEED)
    for _ in range(25):
        cut = rng.randrange(synced[0], len(log) + 1)
        tail = rng.choice([b"", b"\0" * 5000, rng.randbytes(5000)])
        crashed = tmp_path / "crashed"
        crashed.mkdir()
        (crashed / DATABASE_NAME).write_bytes(database)
        (crashed / wal).write_bytes(log[:cut] + tail)
        acknowledged = sum(size <= cut for size in synced) - 1
        with Library.open(crashed) as library:
            writes = check(library.collection("c"), 0, acknowledged)
            do(library.collection("c"), 0, writes)
        shutil.rmtree(crashed)
