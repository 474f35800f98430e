"""T01 at many random moments: SIGKILL whenever it comes, wherever the run then is, and the same bits in the end."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from faults.figures import FIGURES, SEED, STEPS, command
from runs import assert_equal_runs, exit_code, newest_step, run, run_ranks, started, started_ranks

ONE = 100  # cut points with one process
TWO = 20  # with two processes of four workers each


@contextmanager
def begun(arguments: list[str], log: Path, processes: int) -> Iterator[list[BaseProcess]]:
    if processes == 1:
        with started(arguments, log) as process:
            yield [process]
    else:
        with started_ranks(arguments, log, processes) as ranks:
            yield ranks


def killed_after(arguments: list[str], log: Path, processes: int, seconds: float) -> bool:
    """Start, wait and kill all processes; say whether they had not ended before."""
    with begun(arguments, log, processes) as ranks:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and ranks[0].exitcode is None:
            time.sleep(0.001)
        alive = ranks[0].exitcode is None
        for process in ranks:
            if process.exitcode is None and process.pid:
                os.kill(process.pid, signal.SIGKILL)
        codes = {exit_code(process) for process in ranks}
        assert codes <= {0, -9}, f"{codes}: {log.read_text()}"
        return alive


@pytest.mark.parametrize(("processes", "workers", "cuts"), [(1, (0, 0, 0, 2), ONE), (2, (4,), TWO)])
def test_t01_runs_killed_at_random_moments_end_with_the_same_bits(
    digits: Path, tmp_path: Path, whole: Path, whole_of_two: Path, processes: int, workers: tuple[int, ...], cuts: int
) -> None:
    reference, draw = whole if processes == 1 else whole_of_two, random.Random(SEED)
    finish = {1: lambda *args: [run(*args)], 2: run_ranks}[processes]
    out, log = tmp_path / "run", tmp_path / "log"
    began = time.monotonic()
    assert finish(command(digits, out, f"workers={workers[-1]}"), log) == [0] * processes, log.read_text()
    length_s = time.monotonic() - began
    shutil.rmtree(out)
    done, runs, before_the_first, steps = 0, 0, 0, set()
    while done < cuts:
        runs += 1
        for _ in range(3):  # cut points of one run
            arguments = [*command(digits, out, f"workers={draw.choice(workers)}"), "--resume"]
            if not killed_after(arguments, log, processes, draw.uniform(0, length_s)):
                break
            done += 1
            steps.add(newest_step(out))
            before_the_first += newest_step(out) == 0
        assert finish([*command(digits, out), "--resume"], log) == [0] * processes, log.read_text()
        assert_equal_runs(out, reference)
        assert not list(out.rglob(".*.tmp"))
        shutil.rmtree(out)
        log.unlink()
    FIGURES.append(
        f"T01 {processes} process(es), workers {sorted(set(workers))}: {done} SIGKILLs in {runs} runs of {STEPS} steps, "
        f"{before_the_first} before the first checkpoint, last saved steps {sorted(steps)}; all runs ended bit-identical"
    )
