"""SIGTERM ends a run and a job at a whole step: what is done is kept, the exit code says that it was stopped, and one can go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import KEYS, assert_equal_runs, exit_code, newest_step, run, started, wait_until

from backbone import Artifact


def stopped(command: list[str], log: Path, when: Callable[[], bool], number: signal.Signals) -> tuple[int, str]:
    """Start a command, send it a signal when `when` holds, and return its exit code and what it said."""
    with started(command, log, {"DINODEX_RUNTIME": "torch", "DINODEX_THREADS": "1"}) as process:
        wait_until(when, process, timeout_s=90)
        assert process.pid
        os.kill(process.pid, number)
        return exit_code(process), log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_has_saved_a_checkpoint_from_which_an_artifact_can_be_made(
    digits: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    command = ["train", str(digits), "--out", str(out), "--backbone", "vit_tiny_patch8", "image_size=32", "depth=1"]
    command += ["max_steps=100000", "batch_size=8", "log_every=1", "workers=0", "local_views=0"]
    metrics, log = out / "metrics.csv", tmp_path / "log"
    code, said = stopped(command, log, lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 4, number)
    assert code == 143, said
    assert "checkpoints" in said
    assert "go on with --resume" in said
    assert "Traceback" not in said
    assert len(list((out / "checkpoints").glob("step-*.ckpt"))) == 1
    assert not (out / "artifact").exists()
    assert run(["export", str(out), "--out", str(tmp_path / "artifact"), "--no-onnx"], log) == 0, log.read_text()


def test_a_run_that_is_stopped_again_and_again_ends_as_if_it_had_not_been(digits: Path, tmp_path: Path) -> None:
    whole, out, log = tmp_path / "whole", tmp_path / "run", tmp_path / "log"
    command = ["train", str(digits), *KEYS, "max_steps=16", "--out"]
    assert run([*command, str(whole)], log) == 0, log.read_text()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        before = newest_step(out)
        with started([*command, str(out), "--resume"], log) as process:
            wait_until(lambda: newest_step(out) > before, process)  # noqa: B023 - asked at once
            assert process.pid
            os.kill(process.pid, number)
            assert exit_code(process) == 143, log.read_text()
        assert newest_step(out) > before
        assert not (out / "artifact").exists()
    assert run([*command, str(out), "--resume"], log) == 0, log.read_text()
    assert_equal_runs(out, whole)


def test_a_stopped_job_keeps_what_it_has_done_and_the_next_one_does_the_rest(
    digits: Path, tmp_path: Path, tiny_artifact: Artifact
) -> None:
    many = tmp_path / "many"
    for copy in range(20):
        for source in digits.rglob("*.png"):
            target = many / f"{copy}" / source.relative_to(digits)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
    data = tmp_path / "data"
    command = ["index", str(many), "--collection", "c", "--artifact", str(tiny_artifact.path), "--data", str(data)]
    grown = data / "library.sqlite3-wal"  # half of what is waited for is there before the first point
    code, said = stopped(
        command, tmp_path / "log", lambda: grown.exists() and grown.stat().st_size > 600_000, signal.SIGTERM
    )
    assert code == 143, said
    created = int(said.split(" created")[0].splitlines()[-1])
    assert 0 < created < 6000
    done = subprocess.run([sys.executable, "-m", "dinodex", *command], check=True, capture_output=True, text=True)
    assert done.stdout.startswith(f"{6000 - created} created, 0 replaced, {created} unchanged")
