from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from training.gradients import clip_gradients
from training.method import SelfDistillation

By = Literal["whole", "module", "parameter"]
Make = Callable[..., SelfDistillation]
WAYS: list[By] = ["whole", "module", "parameter"]
each_way = pytest.mark.parametrize("by", WAYS)


@pytest.fixture
def student(make_method: Make) -> nn.Module:
    """Backbone, head and patch head; gradients of very different size, and none in one parameter."""
    network = make_method(ibot_head="separate").student
    generator = torch.Generator().manual_seed(0)
    for number, p in enumerate(network.parameters()):
        p.grad = torch.randn(p.shape, generator=generator) * 10.0 ** (number % 4 - 2)
    network.get_parameter("backbone.mask_token").grad = None
    return network


def gradients(network: nn.Module) -> dict[str, Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}


def norm(values: list[Tensor]) -> float:
    return float(torch.cat([value.flatten().double() for value in values]).norm())


def clipped_by_torch(network: nn.Module, limit: float, by: By) -> dict[str, Tensor | None]:
    expected = copy.deepcopy(network)
    for p, original in zip(expected.parameters(), network.parameters(), strict=True):
        p.grad = None if original.grad is None else original.grad.clone()
    parts = {
        "whole": [expected.parameters()],
        "module": [child.parameters() for child in expected.children()],
        "parameter": [[p] for p in expected.parameters()],
    }[by]
    for part in parts:
        torch.nn.utils.clip_grad_norm_(part, limit)
    return gradients(expected)


@each_way
@pytest.mark.parametrize("limit", [0.01, 3.0, 30.0, 1e6])
def test_gradients_are_clipped_as_torch_clips_each_part(student: nn.Module, by: By, limit: float) -> None:
    before = gradients(student)
    expected = clipped_by_torch(student, limit, by)
    whole = clip_gradients(student, limit, by)
    assert whole.shape == ()
    assert float(whole) == pytest.approx(norm([g for g in before.values() if g is not None]), rel=1e-6)
    after = gradients(student)
    for name, gradient in after.items():
        if gradient is None:
            assert expected[name] is None
        else:
            assert torch.equal(gradient, expected[name]), name


def test_by_module_backbone_and_heads_are_measured_apart(student: nn.Module) -> None:
    for p in student.backbone.parameters():
        if p.grad is not None:
            p.grad.mul_(1e-6)
    before = gradients(student)
    clip_gradients(student, 3.0, "module")
    after = gradients(student)
    for part in ("backbone", "head", "patch_head"):
        names = [name for name, g in before.items() if name.startswith(f"{part}.") and g is not None]
        long = norm([before[name] for name in names])
        assert norm([after[name] for name in names]) == pytest.approx(min(long, 3.0), rel=1e-5)
    assert torch.equal(after["backbone.norm.weight"], before["backbone.norm.weight"]), "a burst in a head is its own"


def test_the_whole_keeps_its_direction_and_parameters_each_have_the_limit(student: nn.Module) -> None:
    before = gradients(student)
    clip_gradients(student, 1.0, "whole")
    factors = [after / before[name] for name, after in gradients(student).items() if after is not None]
    assert torch.cat([f.flatten() for f in factors]).std() < 1e-6

    for name, p in student.named_parameters():
        p.grad = before[name]
    clip_gradients(student, 1.0, "parameter")
    for name, p in student.named_parameters():
        if p.grad is not None:
            assert norm([p.grad]) <= 1.0 + 1e-6, name


@each_way
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_number_that_is_not_finite_is_seen_in_the_norm(student: nn.Module, by: By, bad: float) -> None:
    student.get_parameter("head.mlp.0.weight").grad[0, 0] = bad
    assert not clip_gradients(student, 3.0, by).isfinite()


@each_way
def test_without_any_gradient_the_norm_is_zero(student: nn.Module, by: By) -> None:
    student.zero_grad(set_to_none=True)
    assert clip_gradients(student, 3.0, by) == 0.0


@each_way
def test_nothing_waits_for_the_device(student: nn.Module, by: By) -> None:
    """Tensors without values: whoever asked for one would fail, as it would make the host wait for a GPU."""
    student.to("meta")
    for p in student.parameters():
        p.grad = torch.empty_like(p)
    whole = clip_gradients(student, 3.0, by)
    assert whole.is_meta
    with pytest.raises(RuntimeError, match="meta"):
        whole.item()
