"""A start of the library, in a process of its own: how long until the first answer, and how much memory it takes then."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from library_data import Vectors

GOAL_S = 5.0


def restart(folder: Path, queries: Vectors) -> None:
    """Start with the files in memory and with them on disk alone, and say what it took."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    for what, forget in (("files in the page cache", False), ("files on disk alone", True)):
        if forget:
            forget_pages(folder)
        child = [sys.executable, __file__, str(folder)]
        answer = subprocess.run(child, input=queries[:1].tobytes(), capture_output=True, check=True).stdout
        figures = json.loads(answer)
        print(
            f"restart, {what}: open {figures['opened_s']:.2f} s, first answer {figures['answered_s']:.2f} s (goal: {GOAL_S:.0f}); "
            f"memory {figures['RssAnon'] / 2**20:,.0f} MB and {figures['RssFile'] / 2**20:,.0f} MB mapped; "
            f"{size / 2**20:,.0f} MB on disk",
            flush=True,
        )


def forget_pages(folder: Path) -> None:
    """Ask the system to drop the files' pages from memory; clean ones it does."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def start(folder: Path, query: Vectors) -> None:
    """Open, ask, and print the figures as JSON."""
    from service.library import Library

    began = time.perf_counter()
    with Library.open(folder) as library:
        opened_s = time.perf_counter() - began
        library.collection("bench").query(query, 10)
        answered_s = time.perf_counter() - began
        status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        memory = {name: int(status[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")}
    print(json.dumps({"opened_s": opened_s, "answered_s": answered_s, **memory}))


if __name__ == "__main__":
    start(Path(sys.argv[1]), np.frombuffer(sys.stdin.buffer.read(), np.float32)[None])
