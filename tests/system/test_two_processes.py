"""Two processes train as one: the same batches, the same targets, the same losses."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

COMMON = ["--backbone", "vit_tiny_patch8", "image_size=32", "depth=2", "max_steps=6", "batch_size=16", "workers=0"]
# What is drawn or compared within one process differs with the number of processes, by intention: drop path, KoLeo.
COMMON += ["log_every=1", "drop_path=0", "koleo_weight=0", "local_views=2", "freeze_last_layer=0"]


def losses(digits: Path, run: Path, *more: str) -> NDArray[np.float64]:
    """Train by the command line and read the losses of each step from the log."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dinodex", "train", str(digits), "--out", str(run), *COMMON, *more]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the artifact is") == 1, "one process speaks"
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["loss"]]
    return np.array([[float(row["loss"]), float(row["gradient_norm"])] for row in rows])


@pytest.mark.parametrize("keys", [["centring=softmax"], ["--recipe", "dinov2", "koleo_weight=0"]])
def test_two_processes_of_half_the_batch_give_the_losses_of_one(digits: Path, tmp_path: Path, keys: list[str]) -> None:
    one = losses(digits, tmp_path / "one", *keys)
    two = losses(digits, tmp_path / "two", "--devices", "2", "--strategy", "ddp", *keys)
    assert len(one) == len(two) == 6
    np.testing.assert_allclose(two, one, rtol=1e-4)


def test_a_batch_that_cannot_be_shared_evenly_is_refused(digits: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dinodex", "train", str(digits), "--out", str(tmp_path / "run"), *COMMON]
    command += ["--devices", "2", "--strategy", "ddp", "batch_size=15"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    assert "not a multiple of the 2 processes" in done.stderr
