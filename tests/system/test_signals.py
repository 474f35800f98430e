"""SIGTERM ends a run and a job at a whole step: what is done is kept, the exit code says that it was stopped, and one can go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backbone import Artifact


def stopped(command: list[str], when: Callable[[], bool], number: signal.Signals) -> tuple[int, str]:
    """Start a command, send it a signal when `when` holds, and return its exit code and what it said."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DINODEX_RUNTIME": "torch", "DINODEX_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "dinodex", *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 90
    while not when() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_has_saved_a_checkpoint_from_which_an_artifact_can_be_made(
    digits: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    command = ["train", str(digits), "--out", str(run), "--backbone", "vit_tiny_patch8", "image_size=32", "depth=1"]
    command += ["max_steps=100000", "batch_size=8", "log_every=1", "workers=0", "local_views=0"]
    metrics = run / "metrics.csv"
    code, said = stopped(command, lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 4, number)
    assert code == 143, said
    assert "checkpoints" in said
    assert "Traceback" not in said
    assert len(list((run / "checkpoints").glob("step-*.ckpt"))) == 1
    assert not (run / "artifact").exists()
    export = [sys.executable, "-m", "dinodex", "export", str(run), "--out", str(tmp_path / "artifact"), "--no-onnx"]
    subprocess.run(export, check=True, capture_output=True)


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
    grown = data / "library.sqlite3-wal"
    code, said = stopped(command, lambda: grown.exists() and grown.stat().st_size > 300_000, signal.SIGTERM)
    assert code == 143, said
    created = int(said.split(" created")[0].splitlines()[-1])
    assert 0 < created < 6000
    done = subprocess.run([sys.executable, "-m", "dinodex", *command], check=True, capture_output=True, text=True)
    assert done.stdout.startswith(f"{6000 - created} created, 0 replaced, {created} unchanged")
