"""A start of the library, in a process of its own: how long until the first answer, and how much memory it takes then.

After it was closed, with its files in memory and on disk alone; and after SIGKILL in the middle of writing.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from library_data import Vectors

GOAL_S = 5.0
BATCH, WRITTEN = 256, 2_560  # points; so many fit the log without being folded in, and start no build


def restart(folder: Path, queries: Vectors) -> None:
    """Start with the files in memory, with them on disk alone, and after a kill, and say what it took."""
    report("files in the page cache", folder, queries)
    forget_pages(folder)
    report("files on disk alone", folder, queries)
    kill_writing(folder, queries)
    report(f"after SIGKILL, {WRITTEN:,} points later, in the log", folder, queries)


def report(what: str, folder: Path, queries: Vectors) -> None:
    """Start, and print what it took."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    child = [sys.executable, __file__, "start", str(folder)]
    figures = json.loads(subprocess.run(child, input=queries[:1].tobytes(), capture_output=True, check=True).stdout)
    print(
        f"restart, {what}: open {figures['opened_s']:.2f} s, first answer {figures['answered_s']:.2f} s (goal: {GOAL_S:.0f}); "
        f"memory {figures['RssAnon'] / 2**20:,.0f} MB and {figures['RssFile'] / 2**20:,.0f} MB mapped; "
        f"{size / 2**20:,.0f} MB on disk",
        flush=True,
    )


def kill_writing(folder: Path, queries: Vectors) -> None:
    """Let a process write WRITTEN points, and kill it while it writes on."""
    command = [sys.executable, __file__, "write", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(queries[:1].tobytes())
        child.stdin.close()
        child.stdout.readline()
        child.kill()


def forget_pages(folder: Path) -> None:
    """Ask the system to drop the files' pages from memory; clean ones it does."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def start(folder: Path, query: Vectors) -> None:
    """Open, ask, and print the figures as JSON."""
    from service.library.library import Library

    began = time.perf_counter()
    with Library.open(folder) as library:
        opened_s = time.perf_counter() - began
        library.collection("bench").query(query, 10)
        answered_s = time.perf_counter() - began
        status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        memory = {name: int(status[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")}
    print(json.dumps({"opened_s": opened_s, "answered_s": answered_s, **memory}))


def write(folder: Path, query: Vectors) -> None:
    """Put points until it is killed; say when the first WRITTEN are there."""
    from service.library.library import Library
    from service.points import NewPoint

    rng = np.random.default_rng(0)
    with Library.open(folder) as library:
        collection = library.collection("bench")
        for batch in itertools.count():
            vectors = rng.normal(size=(BATCH, query.shape[1]))
            collection.put([NewPoint(f"later {batch} {i}", b"%d" % i, v) for i, v in enumerate(vectors)])
            if (batch + 1) * BATCH == WRITTEN:
                print("written", flush=True)


if __name__ == "__main__":
    {"start": start, "write": write}[sys.argv[1]](
        Path(sys.argv[2]), np.frombuffer(sys.stdin.buffer.read(), np.float32)[None]
    )
