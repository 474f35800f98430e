from __future__ import annotations

import copy
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbone import build, named
from training.batchnorm import SyncedBatchNorm, convert

IMAGES = 8
# name: (dtype, images of each rank, relative tolerance)
CASES = {
    "float32": (torch.float32, (5, 3), 1e-5),
    "float64": (torch.float64, (5, 3), 1e-10),
    "one rank without images": (torch.float64, (8, 0), 1e-10),
}

WORKER = """
import sys
import torch
import torch.distributed as dist
from training.batchnorm import convert

folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
cases = torch.load(f"{folder}/cases.pt", weights_only=False)
results = {}
for name, (network, shares) in cases["networks"].items():
    network = convert(network, "cpu")
    outputs, gradients = [], []
    total = 0.0
    for views, weights in shares[rank]:
        views.requires_grad_(True)
        outputs.append(network(views))
        total = total + (outputs[-1] * weights).sum()
    total.backward()
    views = [views for views, _ in shares[rank]]
    results[name] = {
        "outputs": [output.detach() for output in outputs],
        "inputs": [view.grad for view in views],
        "weights": {key: weight.grad for key, weight in network.named_parameters()},
        "state": network.state_dict(),
        "eval": network.eval()(views[0]).detach(),
    }
half = convert(torch.nn.BatchNorm2d(3), "cpu")
with torch.autocast("cpu", torch.bfloat16):
    results["half"] = {"output": half(cases["half"][rank]).detach(), "state": half.state_dict()}
try:
    convert(torch.nn.BatchNorm1d(3), "cpu")(torch.ones(1 - rank, 3))
except ValueError as error:
    results["alone"] = str(error)
torch.save(results, f"{folder}/rank{rank}.pt")
dist.destroy_process_group()
"""


class Case:
    """A network with each kind of batch normalisation, two resolutions of eight images, and a weight for each output."""

    def __init__(self, name: str) -> None:
        dtype, self.images, self.tolerance = CASES[name]
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False),
            nn.BatchNorm2d(6),
            nn.GELU(),
            nn.Conv2d(6, 4, 3, bias=False),
            nn.BatchNorm2d(4, momentum=None, affine=False),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 5, bias=False),
            nn.BatchNorm1d(5, momentum=0.3, eps=1e-3, track_running_stats=False),
        ).to(dtype)
        nn.init.normal_(self.network[1].weight)
        nn.init.normal_(self.network[8].bias)
        # Far from zero, where a variance from the mean of squares would lose its digits.
        self.views = [torch.randn(IMAGES, 3, side, side, dtype=dtype) + 5 for side in (10, 7)]
        self.weights = [torch.randn(IMAGES, 5, dtype=dtype) for _ in self.views]

    def share(self, rank: int) -> list[tuple[Tensor, Tensor]]:
        views = [view.split(self.images)[rank].clone() for view in self.views]
        return list(zip(views, [weight.split(self.images)[rank].clone() for weight in self.weights], strict=True))


@pytest.fixture(scope="module")
def half() -> Tensor:
    return (torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 + 3).bfloat16()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, half: Tensor) -> list[dict[str, Any]]:
    """What two processes computed, all cases in one start."""
    folder = tmp_path_factory.mktemp("ranks")
    cases = {name: Case(name) for name in CASES}
    networks = {name: (case.network, [case.share(0), case.share(1)]) for name, case in cases.items()}
    torch.save({"networks": networks, "half": half.split([4, 2])}, folder / "cases.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-c", WORKER, str(folder)]
    workers = [
        subprocess.Popen([*command, str(rank)], env=environment, stderr=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    try:
        for worker in workers:
            _, said = worker.communicate(timeout=100)
            assert worker.returncode == 0, said
    finally:
        for worker in workers:
            worker.kill()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("name", CASES)
def test_two_processes_with_shares_of_a_batch_are_one_with_all_of_it(name: str, ranks: list[dict[str, Any]]) -> None:
    case, found = Case(name), [rank[name] for rank in ranks]
    outputs = []
    for view, weight in zip(case.views, case.weights, strict=True):
        outputs.append(case.network(view.requires_grad_(True)))
        (outputs[-1] * weight).sum().backward()
    for number, (output, view) in enumerate(zip(outputs, case.views, strict=True)):
        assert view.grad is not None
        assert_close(torch.cat([rank["outputs"][number] for rank in found]), output, case.tolerance)
        assert_close(torch.cat([rank["inputs"][number] for rank in found]), view.grad, case.tolerance)
    for key, parameter in case.network.named_parameters():
        assert parameter.grad is not None
        assert_close(found[0]["weights"][key] + found[1]["weights"][key], parameter.grad, case.tolerance)
    for rank in found:
        assert list(rank["state"]) == list(case.network.state_dict())
        for key, value in case.network.state_dict().items():
            assert_close(rank["state"][key], value, case.tolerance)


def test_in_evaluation_each_process_is_on_its_own(ranks: list[dict[str, Any]]) -> None:
    case = Case("float64")
    network = case.network
    network[8] = nn.Identity()  # without running statistics it has nothing to evaluate by
    found = ranks[0]["float64"]
    state = {key: value for key, value in found["state"].items() if not key.startswith("8.")}
    network.load_state_dict(state)
    batch = nn.BatchNorm1d(5, eps=1e-3, track_running_stats=False).double()
    batch.load_state_dict({key.removeprefix("8."): v for key, v in found["state"].items() if key.startswith("8.")})
    assert_close(found["eval"], batch(network.eval()(case.share(0)[0][0])), 1e-10)


def test_half_precision_in_and_out_but_statistics_in_full(ranks: list[dict[str, Any]], half: Tensor) -> None:
    oracle = nn.BatchNorm2d(3)
    expected = oracle(half.float())
    output = torch.cat([rank["half"]["output"] for rank in ranks])
    assert output.dtype == torch.bfloat16
    assert_close(output.float(), expected, 2**-8)
    for rank in ranks:
        assert_close(rank["half"]["state"]["running_mean"], oracle.running_mean, 1e-5)
        assert_close(rank["half"]["state"]["running_var"], oracle.running_var, 1e-5)


def test_one_value_a_channel_in_all_processes_is_refused_by_all(ranks: list[dict[str, Any]]) -> None:
    assert all("more than 1 value per channel" in rank["alone"] for rank in ranks)


@pytest.mark.parametrize(("device", "kind"), [("cpu", SyncedBatchNorm), ("cuda", nn.SyncBatchNorm)])
def test_conversion_replaces_every_layer_and_keeps_names_and_tensors(device: str, kind: type[nn.Module]) -> None:
    network = build(named("resnet18")).eval()
    layers = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    before = network.state_dict(keep_vars=True)
    assert convert(network, device) is network
    after = network.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is tensor for name, tensor in before.items())
    assert sum(type(module) is kind for module in network.modules()) == layers
    assert not any(isinstance(module, nn.BatchNorm2d) or module.training for module in network.modules())


def test_a_layer_by_itself_is_converted_once() -> None:
    layer = convert(nn.BatchNorm1d(4), "cpu")
    assert type(layer) is SyncedBatchNorm
    assert convert(layer, "cpu") is layer
    assert type(convert(nn.Linear(2, 2), "cpu")) is nn.Linear


@pytest.mark.parametrize("training", [True, False])
def test_alone_it_is_batch_normalisation_bit_by_bit(training: bool) -> None:
    torch.manual_seed(0)
    oracle = build(named("resnet18")).train(training)
    network = convert(copy.deepcopy(oracle), "cpu")
    x = torch.randn(4, 3, 32, 32)
    for _ in range(2):
        expected, found = oracle(x).global_token, network(x).global_token
        assert torch.equal(found, expected)
    assert all(torch.equal(value, oracle.state_dict()[name]) for name, value in network.state_dict().items())


def test_an_input_without_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"takes \[B, C\]"):
        convert(nn.BatchNorm1d(4), "cpu")(torch.ones(4))
