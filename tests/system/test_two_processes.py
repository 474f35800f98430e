"""Two processes train as one: the same batches, the same targets, the same losses and gradients."""

from __future__ import annotations

import csv
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from runs import run, run_ranks

Gradients = list[dict[str, torch.Tensor]]

# Runs before the command line, on every rank: the first one keeps the gradients of its first two steps, as they are before clipping.
# In float64 no checkpoint is written, which would be large, and no artifact, which would be one of float32.
RECORDER = """
import torch
import training.module, training.run
from training.distributed import rank
clip, normalised, kept = training.module.clip_gradients, training.module.normalised, []

def keep_and_clip(student, *limits):
    if rank() == 0 and len(kept) < 2:
        kept.append({name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None})
        torch.save(kept[-1], f"{FOLDER}/gradients-{len(kept)}.pt")
    return clip(student, *limits)

training.module.clip_gradients = keep_and_clip
if DTYPE == "float64":
    torch.set_default_dtype(torch.float64)
    training.module.normalised = lambda pixels: normalised(pixels).double()
    training.run.Saver.save = lambda *_, **__: None
    training.run.newest_valid = training.run.export_checkpoint = lambda *_, **__: None
"""
EXAMPLES = Path(__file__).parents[2] / "examples"
VIT = ["--backbone", "vit_tiny_patch8", "image_size=32", "depth=2", "layer_scale=0.1"]
RESNET = ["--backbone", "resnet18", "image_size=32", "local_size=32", "batch_size=8", "head_hidden=256"]
COMMON = ["max_steps=4", "batch_size=16", "workers=0", "log_every=1", "local_views=2", "onnx=false", "held_out=0"]
# What is drawn or compared within one process differs with their number, by intention: drop path, and KoLeo unless it is gathered.
COMMON += ["drop_path=0", "koleo_over=all", "freeze_last_layer=0", "prototypes=256"]
LOSSES = {"float32": 1e-5, "float64": 1e-6}  # the log is one of float32
GRADIENTS = {"float32": 1e-5, "float64": 1e-9}
METHODS = {
    "dino": [*VIT, "centring=softmax", "koleo_weight=0.1"],
    "dinov2": ["--recipe", "dinov2", *VIT],
    "dinov2-separate-heads": ["--recipe", "dinov2", *VIT, "ibot_head=separate", "centring=softmax"],
    "resnet": ["--recipe", "dinov2", *RESNET],
}
# Twenty batch normalisations over few values amplify the last bit of a float32 sum a hundredfold, so a ResNet is compared in float64.
CASES = [(name, "float64" if name == "resnet" else "float32") for name in METHODS]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def said_by(command: Sequence[str]) -> str:
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def losses(run_folder: Path) -> NDArray[np.float64]:
    """Losses and gradient norm of each step."""
    with (run_folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["loss"]]
    columns = ("loss", "dino", "ibot", "koleo", "gradient_norm")
    return np.array([[float(row[column]) for column in columns] for row in rows])


def trained(
    digits: Path, folder: Path, *keys: str, dtype: str = "float32", ranks: int = 1
) -> tuple[NDArray[np.float64], Gradients]:
    """Train by the command line: the losses of each step, and the gradients of the first ones."""
    folder.mkdir()
    arguments = ["train", str(digits), "--out", str(folder / "run"), *COMMON, *keys]
    before = f"FOLDER, DTYPE = {str(folder)!r}, {dtype!r}\n{RECORDER}"
    log = folder / "log"
    codes = [run(arguments, log, before)] if ranks == 1 else run_ranks(arguments, log, ranks, before)
    assert codes == [0] * ranks, log.read_text()
    assert log.read_text().count("the artifact is") == 1, "one process speaks"
    gradients = [torch.load(path, weights_only=True) for path in sorted(folder.glob("gradients-*.pt"))]
    return losses(folder / "run"), gradients


def assert_close(gradients: Gradients, expected: Gradients, tolerance: float) -> None:
    """Each tensor as a whole: the difference is a small part of its length."""
    for found, wanted in zip(gradients, expected, strict=True):
        assert found.keys() == wanted.keys()
        for name in wanted:
            difference = torch.linalg.vector_norm(found[name] - wanted[name])
            assert difference <= tolerance * torch.linalg.vector_norm(wanted[name]), name


@pytest.mark.parametrize(("method", "dtype"), CASES)
def test_two_processes_of_half_the_batch_give_the_losses_and_gradients_of_one(
    digits: Path, tmp_path: Path, method: str, dtype: str
) -> None:
    keys = METHODS[method]
    one, gradients_of_one = trained(digits, tmp_path / "one", *keys, dtype=dtype)
    two, gradients_of_two = trained(digits, tmp_path / "two", *keys, dtype=dtype, ranks=2)
    assert len(one) == len(two) == 4
    assert len(gradients_of_one) == 2
    np.testing.assert_allclose(two, one, rtol=LOSSES[dtype])
    assert_close(gradients_of_two, gradients_of_one, GRADIENTS[dtype])


def test_parts_of_a_batch_give_the_losses_and_gradients_of_the_whole(digits: Path, tmp_path: Path) -> None:
    """Nothing in softmax centring depends on the other images of a batch, so its parts must add up to it."""
    keys = ["--recipe", "dinov2", *VIT, "centring=softmax", "koleo_weight=0"]
    whole, gradients_of_whole = trained(digits, tmp_path / "whole", *keys)
    parts, gradients_of_parts = trained(digits, tmp_path / "parts", *keys, "accumulate=4")
    shared, gradients_of_shared = trained(digits, tmp_path / "shared", *keys, "accumulate=2", ranks=2)
    for losses_of, gradients_of in ((parts, gradients_of_parts), (shared, gradients_of_shared)):
        np.testing.assert_allclose(losses_of, whole, rtol=LOSSES["float32"])
        assert_close(gradients_of, gradients_of_whole, GRADIENTS["float32"])


def test_koleo_within_a_process_is_the_papers_and_the_default(digits: Path, tmp_path: Path) -> None:
    """Half as many candidates: the nearest is never nearer, and somewhere it is farther away, so the loss is smaller."""
    keys = ["--recipe", "dinov2", *VIT, "koleo_over=process", "max_steps=1"]
    one, _ = trained(digits, tmp_path / "one", *keys)
    two, _ = trained(digits, tmp_path / "two", *keys, ranks=2)
    np.testing.assert_allclose(two[:, 1:3], one[:, 1:3], rtol=LOSSES["float32"])
    assert two[0, 3] < one[0, 3]


def test_two_nodes_under_torchrun_give_the_losses_of_one_process(digits: Path, tmp_path: Path) -> None:
    keys = [*COMMON, "--recipe", "dinov2", *VIT]
    assert run(["train", str(digits), "--out", str(tmp_path / "one"), *keys], tmp_path / "log") == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "two-nodes"]
    train = ["-m", "dinodex", "train", str(digits), "--out", str(tmp_path / "two"), *keys]
    train += ["--devices", "1", "--nodes", "2", "--strategy", "ddp"]
    logs = [tmp_path / "node-0", tmp_path / "node-1"]
    nodes = []
    try:
        for log in logs:
            with log.open("wb") as file:
                nodes.append(subprocess.Popen([*launcher, *train], env=environment(), stdout=file, stderr=file))
        codes = [node.wait(timeout=200) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    said = [log.read_text() for log in logs]
    assert codes == [0, 0], said
    assert sum(text.count("the artifact is") for text in said) == 1
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=LOSSES["float32"])


def printed(example: str, digits: Path) -> list[float]:
    """Run an example and read the losses that it prints."""
    said = said_by([sys.executable, str(EXAMPLES / example), str(digits), "--steps", "3"])
    return [float(loss) for loss in re.findall(r"^step \d+ loss ([\d.]+)$", said, re.MULTILINE)]


def test_the_three_examples_print_the_same_losses(digits: Path) -> None:
    names = ["dinov2_pytorch.py", "dinov2_lightning.py", "dinov2_lightning_distributed.py"]
    with ThreadPoolExecutor() as at_once:  # most of their time goes into imports
        plain, lightning, distributed = at_once.map(lambda name: printed(name, digits), names)
    assert len(plain) == 3
    assert lightning == plain
    np.testing.assert_allclose(distributed, plain, rtol=LOSSES["float32"])


@pytest.mark.parametrize(("keys", "near"), [(["batch_size=15"], 14), (["batch_size=16", "accumulate=3"], 12)])
def test_a_batch_that_cannot_be_shared_evenly_is_refused_before_anything_is_written(
    digits: Path, tmp_path: Path, keys: list[str], near: int
) -> None:
    command = ["train", str(digits), "--out", str(tmp_path / "run"), *VIT, *COMMON]
    command += ["--devices", "2", "--strategy", "ddp", *keys]
    log = tmp_path / "log"
    assert run(command, log) == 78
    times = " times accumulate=3" if "accumulate=3" in keys else ""
    assert f"the 2 processes of the run{times}; take batch_size={near}." in log.read_text()
    assert not (tmp_path / "run").exists()
