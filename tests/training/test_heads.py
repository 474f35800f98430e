from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from lightly.models.modules.heads import DINOProjectionHead, DINOv2ProjectionHead
from torch import Tensor, nn

from training.heads import ProjectionHead

LENGTH = "last_layer.parametrizations.weight.original0"
DIRECTION = "last_layer.parametrizations.weight.original1"
# LightlySSL's name of each parameter: its weight normalisation is the older one of PyTorch.
LIGHTLY = {
    "last_layer.weight_g": LENGTH,
    "last_layer.weight_v": DIRECTION,
    **{f"layers.{layer}.{kind}": f"mlp.{layer}.{kind}" for layer in (0, 2, 4) for kind in ("weight", "bias")},
}


def lightlys(head: ProjectionHead, kind: type[nn.Module]) -> nn.Module:
    """LightlySSL's head with the weights of `head`, in float64."""
    state = head.state_dict()
    hidden, dim = state["mlp.0.weight"].shape
    prototypes, bottleneck = state[DIRECTION].shape
    with pytest.warns(FutureWarning, match="weight_norm"):
        oracle = kind(dim, hidden, bottleneck, prototypes)
    oracle.load_state_dict({theirs: state[ours] for theirs, ours in LIGHTLY.items()})
    return oracle.double()


def assert_agrees(ours: Tensor | None, truth: Tensor | None, tolerance: float) -> None:
    """Relative to the largest entry."""
    assert ours is not None
    assert truth is not None
    assert ours.shape == truth.shape
    assert float((ours.double() - truth).abs().max()) <= tolerance * float(truth.abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
@pytest.mark.parametrize(("kind", "trainable"), [(DINOProjectionHead, False), (DINOv2ProjectionHead, True)])
def test_scores_and_all_gradients_are_those_of_lightlys_head(
    kind: type[nn.Module], trainable: bool, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    head = ProjectionHead(384, prototypes=4096, trainable_norm=trainable)
    with torch.no_grad():
        head.get_parameter(LENGTH).mul_(torch.rand(4096, 1) + 0.5)  # lengths and biases as after some training
        for layer in (0, 2, 4):
            head.get_parameter(f"mlp.{layer}.bias").normal_(std=0.02)
    x = torch.randn(32, 384)
    oracle, oracle_x = lightlys(head, kind), x.double().requires_grad_()
    head, ours_x = head.to(dtype), x.to(dtype).requires_grad_()
    wanted = torch.randn(32, 4096)

    truth, ours = oracle(oracle_x), head(ours_x)
    assert_agrees(ours.detach(), truth.detach(), tolerance)
    (truth * wanted).sum().backward()
    (ours * wanted.to(dtype)).sum().backward()
    assert_agrees(ours_x.grad, oracle_x.grad, tolerance)
    for theirs, name in LIGHTLY.items():
        parameter = head.get_parameter(name)
        assert parameter.requires_grad == oracle.get_parameter(theirs).requires_grad == (trainable or name != LENGTH)
        if parameter.requires_grad:
            assert_agrees(parameter.grad, oracle.get_parameter(theirs).grad, tolerance)


def test_scores_are_cosines_with_the_prototypes() -> None:
    torch.manual_seed(0)
    head = ProjectionHead(6, prototypes=9, hidden=8, bottleneck=4).double()
    x = torch.randn(3, 6, dtype=torch.float64)
    expected = F.normalize(head.mlp(x), dim=-1) @ F.normalize(head.get_parameter(DIRECTION), dim=-1).T
    assert torch.allclose(head(x), expected, rtol=1e-10, atol=1e-12)
    assert head(x).abs().max() <= 1 + 1e-12


def test_a_fresh_head_has_small_normal_weights_no_biases_and_prototypes_of_length_one() -> None:
    torch.manual_seed(0)
    parameters = ProjectionHead(384, prototypes=4096).state_dict()
    assert torch.equal(parameters.pop(LENGTH), torch.ones(4096, 1))
    for name, parameter in parameters.items():
        if name.endswith(".bias"):
            assert not parameter.any(), name
            continue
        # Of n normal numbers the mean is off by 0.02 / sqrt(n), the deviation by 0.02 / sqrt(2n): five times that is allowed.
        n = parameter.numel()
        assert abs(float(parameter.mean())) < 5 * 0.02 / n**0.5, name
        assert abs(float(parameter.std()) - 0.02) < 5 * 0.02 / (2 * n) ** 0.5, name
        quartile = float(parameter.flatten()[:100_000].quantile(0.75))
        assert quartile == pytest.approx(0.6745 * 0.02, rel=0.03), f"{name} is not normal"


@pytest.mark.parametrize("trainable", [False, True])
def test_the_length_of_the_prototypes_trains_only_when_asked(trainable: bool) -> None:
    torch.manual_seed(0)
    head = ProjectionHead(6, 9, 8, 4, trainable_norm=trainable)
    optimizer = torch.optim.AdamW((p for p in head.parameters() if p.requires_grad), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        head(torch.randn(5, 6)).square().sum().backward()
        optimizer.step()
    assert torch.equal(head.get_parameter(LENGTH), torch.ones(9, 1)) == (not trainable)


def test_a_copy_of_a_head_scores_alike() -> None:
    head = ProjectionHead(6, 9, 8, 4)
    x = torch.randn(3, 6)
    assert torch.equal(copy.deepcopy(head)(x), head(x))


def test_no_rows_in_no_rows_out() -> None:
    assert ProjectionHead(6, 9, 8, 4)(torch.zeros(0, 6)).shape == (0, 9)


def test_a_vector_too_small_for_half_precision_is_still_normalised() -> None:
    head = ProjectionHead(6, 9, 8, 4)
    with torch.no_grad():
        head.mlp[-1].weight.mul_(1e-6)
    scores = head.to(torch.bfloat16).float()(torch.randn(3, 6))
    assert scores.abs().max() > 0.01


def test_scores_are_computed_in_float32_under_autocast() -> None:
    """bfloat16 would know a cosine to 0.004 only: far more than the images differ by at the start of a run."""
    torch.manual_seed(0)
    head = ProjectionHead(6, 9, 8, 4)
    x = torch.randn(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        scores = head(x)
        z = head.mlp(x)
    assert z.dtype == torch.bfloat16
    assert scores.dtype == torch.float32
    exact = F.normalize(z.double(), dim=-1) @ head.last_layer.weight.double().T
    assert_agrees(scores.detach(), exact.detach(), 1e-6)
