"""T08 with the launcher of the command line: what it started and what stands still is gone when it ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from faults.figures import FIGURES, command
from runs import exit_code, newest_step, session, started, wait_until

TIMEOUT_S = 30  # the second process must also have loaded its libraries within it


def test_t08_a_child_of_the_launcher_that_stands_still_is_gone_with_it(digits: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    arguments = command(digits, out, "devices=2", f"peer_timeout_s={TIMEOUT_S}", "max_steps=100000")
    with started(arguments, log) as launcher:
        wait_until(lambda: newest_step(out) >= 3, launcher)
        [child] = [process for process in session(launcher.pid) if process != launcher.pid]
        os.kill(child, signal.SIGSTOP)
        assert exit_code(launcher, timeout_s=2 * TIMEOUT_S) == 74, log.read_text()
        wait_until(lambda: not session(launcher.pid), timeout_s=10)
    FIGURES.append(f"T08 the launcher ended with 74 within {2 * TIMEOUT_S} s and its stopped child with it")
