"""What is computed over all ranks is what one process computes that holds all rows.

This file is also the program of a rank: `test_distributed.py RANK PORT OUT`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.distributed import all_gather_rows, rank
from training.losses import centre_moved_by, koleo_loss, score_sums, sinkhorn_targets

RANKS = 2
B = 8  # rows of a rank where all have as many
PRECISIONS = [(torch.float32, 1e-6), (torch.float64, 1e-10)]
precisions = pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
# Rows of each rank: even, uneven, all on one, none.
SPLITS = [(6, 6), (9, 3), (12, 0), (0, 12), (0, 0)]
splits = pytest.mark.parametrize("split", SPLITS)


def rows(dtype: torch.dtype) -> Tensor:
    return torch.randn(RANKS * B, 12, generator=torch.Generator().manual_seed(0)).to(dtype)


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(12, 10), nn.GELU(), nn.Linear(10, 6)).to(dtype)


def scores(split: tuple[int, int], dtype: torch.dtype) -> Tensor:
    return (torch.rand(sum(split), 32, generator=torch.Generator().manual_seed(2)) - 0.5).to(dtype)


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def rank_program(out: Path) -> None:
    """Compute everything that the tests compare, on this rank's rows."""
    results: dict[str, Any] = {}
    for dtype, _ in PRECISIONS:
        mine = rows(dtype).chunk(RANKS)[rank()]
        model = DistributedDataParallel(network(dtype))
        z = model(mine)
        everything = all_gather_rows(z)
        loss = koleo_loss(z, everything, offset=rank() * B)
        loss.backward()
        results[f"gathered {dtype}"] = everything.detach()
        results[f"koleo over all {dtype}"] = loss.detach()
        results[f"gradient of koleo over all {dtype}"] = gradients(model)

        model.zero_grad()
        loss = koleo_loss(model(mine))
        loss.backward()
        results[f"koleo of a process {dtype}"] = loss.detach()
        results[f"gradient of koleo of a process {dtype}"] = gradients(model)

        for split in SPLITS:
            part = scores(split, dtype).split(split)[rank()]
            centre = torch.linspace(-0.1, 0.1, 32, dtype=dtype)
            results[f"sinkhorn {split} {dtype}"] = sinkhorn_targets(part, 0.05)
            results[f"centre {split} {dtype}"] = centre_moved_by(centre, score_sums(part, centre))
    torch.save(results, out)


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """Run two ranks over gloo; what each computed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    outs = [tmp_path_factory.mktemp("ranks") / f"{number}.pt" for number in range(RANKS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(number), port, str(out)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for number, out in enumerate(outs)
    ]
    try:
        for process in ranks:
            _, errors = process.communicate(timeout=100)
            assert process.returncode == 0, errors
    finally:
        for process in ranks:
            process.kill()
    return [torch.load(out, weights_only=True) for out in outs]


def assert_agrees(ours: Tensor, truth: Tensor, tolerance: float) -> None:
    """Relative to the largest entry."""
    assert ours.shape == truth.shape
    if truth.numel():
        assert float((ours - truth).abs().max()) <= tolerance * float(truth.abs().max())


@precisions
def test_gathered_rows_lie_in_the_order_of_the_ranks(
    by_rank: list[dict[str, Tensor]], dtype: torch.dtype, tolerance: float
) -> None:
    expected = network(dtype)(rows(dtype)).detach()
    for results in by_rank:
        assert_agrees(results[f"gathered {dtype}"], expected, tolerance)


@precisions
def test_koleo_over_all_ranks_is_that_of_one_process_in_value_and_gradient(
    by_rank: list[dict[str, Tensor]], dtype: torch.dtype, tolerance: float
) -> None:
    model = network(dtype)
    truth = koleo_loss(model(rows(dtype)))
    truth.backward()
    mean = torch.stack([results[f"koleo over all {dtype}"] for results in by_rank]).mean()
    assert_agrees(mean, truth.detach(), tolerance)
    for results in by_rank:
        assert_agrees(results[f"gradient of koleo over all {dtype}"], gradients(model), tolerance)


@precisions
def test_koleo_of_each_process_is_that_of_its_own_rows_and_ddp_trains_the_mean(
    by_rank: list[dict[str, Tensor]], dtype: torch.dtype, tolerance: float
) -> None:
    model = network(dtype)
    own = torch.stack([koleo_loss(model(part)) for part in rows(dtype).chunk(RANKS)])
    own.mean().backward()
    for results, truth in zip(by_rank, own.detach(), strict=True):
        assert_agrees(results[f"koleo of a process {dtype}"], truth, tolerance)
        assert_agrees(results[f"gradient of koleo of a process {dtype}"], gradients(model), tolerance)
    over_all = koleo_loss(model(rows(dtype))).detach()
    assert abs(float(over_all - own.detach().mean())) > 0.01, "nearer neighbours are found among all rows"


@splits
@precisions
def test_sinkhorn_assigns_the_rows_of_all_ranks_as_one_process_does(
    by_rank: list[dict[str, Tensor]], dtype: torch.dtype, tolerance: float, split: tuple[int, int]
) -> None:
    truth = sinkhorn_targets(scores(split, dtype), 0.05)
    assert_agrees(torch.cat([results[f"sinkhorn {split} {dtype}"] for results in by_rank]), truth, tolerance)


@splits
@precisions
def test_the_centre_moves_by_the_rows_of_all_ranks_as_in_one_process(
    by_rank: list[dict[str, Tensor]], dtype: torch.dtype, tolerance: float, split: tuple[int, int]
) -> None:
    centre = torch.linspace(-0.1, 0.1, 32, dtype=dtype)
    truth = centre_moved_by(centre, score_sums(scores(split, dtype), centre))
    for results in by_rank:
        assert_agrees(results[f"centre {split} {dtype}"], truth, tolerance)


def test_without_a_process_group_the_rows_are_those_of_this_process() -> None:
    x = torch.randn(3, 4)
    assert all_gather_rows(x) is x


if __name__ == "__main__":
    number, port, out = sys.argv[1:]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=int(number), world_size=RANKS)
    rank_program(Path(out))
    dist.destroy_process_group()
