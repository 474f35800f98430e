"""S44: SIGKILL at random moments of opening and writing, and what is then in the directory."""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from faults.library.history import THREADS, check, opened
from faults.library.small import small

from service.library.library import Library

LONGEST_S = 0.35  # from the order to open until the kill; opening takes some 0.05 of it
PYTHON = [sys.executable, "-m", "faults.library.writer"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}


@dataclass
class Found:
    """The findings after the kills."""

    kills: int = 0
    acknowledged: int = 0
    unanswered: int = 0  # writes found that were never answered
    while_opening: int = 0
    recovery_s: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        middle, longest = statistics.median(self.recovery_s) * 1e3, max(self.recovery_s) * 1e3
        return (
            f"{self.kills} SIGKILLs ({self.while_opening} while opening), {self.acknowledged} writes acknowledged: 0 lost, 0 half,"
            f" 0 phantom; {self.unanswered} unanswered ones wholly there; every start succeeded, in {middle:.0f} ms (median),"
            f" {longest:.0f} ms (longest)"
        )


@contextmanager
def waiting() -> Iterator[subprocess.Popen[str]]:
    """Start a writer; while it loads its libraries, something else can be done."""
    command = [*PYTHON, "load"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as child:
        try:
            yield child
        finally:
            child.kill()


def killed(child: subprocess.Popen[str], directory: Path, done: list[int], seconds: float) -> list[str]:
    """Let a writer write, kill it, and return the lines that it said."""
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.stdin.write(" ".join(map(str, [directory, *done])) + "\n")
    child.stdin.flush()
    time.sleep(seconds)
    assert child.poll() is None, "it ended by itself"
    child.kill()
    said, _ = child.communicate()
    return said.split("\n")[:-1]  # half a line was no answer


def kill_many(directory: Path, kills: int, seed: int) -> Found:
    """Kill `kills` writers, one after the other, in one directory; verify it after each."""
    draw, found, done = random.Random(seed), Found(), [0] * THREADS
    with ExitStack() as children:
        child = children.enter_context(waiting())
        for _ in range(kills):
            following = children.enter_context(waiting())  # it loads its libraries while this one writes and we verify
            said = killed(child, directory, done, draw.uniform(0, LONGEST_S))
            child = following
            found.kills += 1
            found.while_opening += not said
            for line in said[1:]:
                thread, number = map(int, line.split())
                done[thread] = number + 1
                found.acknowledged += 1
            if draw.random() < 0.5:
                done = verified(directory, done, seed, found)
            else:  # what this kill left is left to the next writer
                copy = directory.with_name("copy")
                shutil.copytree(directory, copy)
                done = verified(copy, done, seed, found)
                shutil.rmtree(copy)
    return found


def verified(directory: Path, done: list[int], seed: int, found: Found) -> list[int]:
    with small():
        began = time.perf_counter()
        with Library.open(directory, threads=1) as library:
            found.recovery_s.append(time.perf_counter() - began)
            writes = check(opened(library), done, seed)
    found.unanswered += sum(writes) - sum(done)
    return writes
