from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import convnext_tiny, resnet18
from torchvision.models.convnext import CNBlock

from backbone.architecture import Architecture
from training.method import SelfDistillation
from training.optimizer import (
    Treatment,
    clip_gradients,
    drop_last_layer_gradients,
    parameter_groups,
    treatment,
    write_schedule,
)

Make = Callable[..., SelfDistillation]
DEPTH = 3
VIT = {"image_size": 16, "patch_size": 4, "dim": 32, "depth": DEPTH, "heads": 2, "registers": 2, "ffn": "swiglu"}
LENGTH = "parametrizations.weight.original0"
By = Literal["whole", "module", "parameter"]
WAYS: list[By] = ["whole", "module", "parameter"]
each_way = pytest.mark.parametrize("by", WAYS)


@pytest.fixture
def student(make_method: Make) -> nn.Module:
    """A ViT with registers and SwiGLU, and two heads whose prototypes' lengths train."""
    return make_method(architecture=Architecture("vit", VIT), ibot_head="separate").student


def cnn(kind: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):  # names and shapes without the weights
        return nn.ModuleDict({"backbone": kind()})


def treatments(
    network: nn.Module, depth: int, layer_decay: float = 1.0, patch_embed_lr: float = 1.0
) -> dict[str, Treatment]:
    names = {id(p): name for name, p in network.named_parameters()}
    return {
        names[id(p)]: Treatment(group["lr_scale"], group["decays"], group["last_layer"])
        for group in parameter_groups(network, depth, layer_decay, patch_embed_lr)
        for p in group["params"]
    }


NORMS = (nn.LayerNorm, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)


def slow_decays(network: nn.Module) -> dict[str, bool]:
    """The rule read from the modules instead of the names: what multiplies its input by a matrix decays, and so do the tokens."""
    decays = {}
    for path, module in network.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            scale = name in ("gamma", "layer_scale", "original0")
            decays[f"{path}.{name}".lstrip(".")] = not (isinstance(module, NORMS) or name == "bias" or scale)
    return decays


@pytest.mark.parametrize("kind", [convnext_tiny, resnet18])
def test_in_a_cnn_all_but_norms_biases_and_scales_decays_and_all_learns_alike(kind: Callable[[], nn.Module]) -> None:
    network = cnn(kind)
    found = treatments(network, 0, layer_decay=0.5, patch_embed_lr=0.2)
    assert {name: how.decay for name, how in found.items()} == slow_decays(network)
    assert {how.lr_scale for how in found.values()} == {1.0}


def test_a_layer_scale_of_three_dimensions_does_not_decay() -> None:
    """ConvNeXt's is [D, 1, 1]; the weights beside it are 4-D and 2-D and do."""
    found = treatments(cnn(convnext_tiny), 0)
    assert CNBlock(8, 1e-6, 0.0).layer_scale.ndim == 3
    assert not found["backbone.features.1.0.layer_scale"].decay
    assert not found["backbone.features.0.1.weight"].decay
    assert found["backbone.features.1.0.block.0.weight"].decay
    assert found["backbone.features.1.0.block.3.weight"].decay


def test_in_a_vit_all_but_norms_biases_scales_and_lengths_decays(student: nn.Module) -> None:
    found = {name: how.decay for name, how in treatments(student, DEPTH).items()}
    assert found == slow_decays(student)
    for name in ("blocks.0.attn.qkv.bias", "blocks.1.norm2.weight", "blocks.0.ls1.gamma", "norm.weight", "norm.bias"):
        assert not found[f"backbone.{name}"], name
    for head in ("head", "patch_head"):
        assert not found[f"{head}.last_layer.{LENGTH}"]
        assert found[f"{head}.last_layer.parametrizations.weight.original1"]
    tokens = ("cls_token", "register_tokens", "mask_token", "pos_embed")
    for name in (*tokens, "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"):
        assert found[f"backbone.{name}"], name


def slow_lr_scale(name: str, depth: int, layer_decay: float, patch_embed_lr: float) -> float:
    """Layers counted from the output: heads and final norm 0, block L - 1 is 1, ..., block 0 is L, what makes the tokens L + 1."""
    part, *path = name.split(".")
    if part != "backbone" or path[0] == "norm":
        return 1.0
    below = depth - int(path[1]) if path[0] == "blocks" else depth + 1
    scale = 1.0
    for _ in range(below):
        scale *= layer_decay
    return scale * patch_embed_lr if path[0] == "patch_embed" else scale


def test_layers_near_the_pixels_learn_more_slowly(student: nn.Module) -> None:
    found = {name: how.lr_scale for name, how in treatments(student, DEPTH, 0.9, 0.2).items()}
    for name, scale in found.items():
        assert scale == pytest.approx(slow_lr_scale(name, DEPTH, 0.9, 0.2), rel=1e-12), name
    for token in ("cls_token", "register_tokens", "mask_token", "pos_embed"):
        assert found[f"backbone.{token}"] == pytest.approx(0.9**4), token
    assert found["backbone.patch_embed.proj.bias"] == pytest.approx(0.2 * 0.9**4)
    assert found["backbone.blocks.2.norm1.weight"] == pytest.approx(0.9)
    assert found["backbone.norm.weight"] == found["head.mlp.0.weight"] == 1.0


@pytest.mark.parametrize(("name", "scale"), [("patch_embed.proj.weight", 0.0144), ("blocks.0.attn.qkv.weight", 0.0798)])
def test_a_large_vit_has_the_published_rates(name: str, scale: float) -> None:
    """DINOv2's ViT-L of 24 blocks: 0.9^25 * 0.2 and 0.9^24."""
    how = treatment(f"backbone.{name}", torch.zeros(2, 2), 24, layer_decay=0.9, patch_embed_lr=0.2)
    assert how.lr_scale == pytest.approx(scale, rel=5e-3)


def test_every_trainable_parameter_is_in_exactly_one_group_and_groups_differ(student: nn.Module) -> None:
    student.get_parameter("backbone.mask_token").requires_grad_(False)
    groups = parameter_groups(student, DEPTH, 0.9, 0.2)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in student.parameters() if p.requires_grad)
    kinds = [(group["lr_scale"], group["decays"], group["last_layer"]) for group in groups]
    assert len(set(kinds)) == len(kinds)


def test_the_last_layers_are_those_of_the_heads(student: nn.Module) -> None:
    last = {name for name, how in treatments(student, DEPTH).items() if how.last_layer}
    assert last == {name for name, _ in student.named_parameters() if re.match(r"(patch_)?head\.last_layer\.", name)}
    assert len(last) == 4


def test_a_schedule_reaches_every_group(student: nn.Module) -> None:
    groups = parameter_groups(student, DEPTH, 0.5, 0.2)
    for lr, weight_decay in ((0.1, 0.3), (0.2, 0.4)):
        write_schedule(groups, lr, weight_decay)
        for group in groups:
            assert group["lr"] == pytest.approx(lr * group["lr_scale"])
            assert group["weight_decay"] == (weight_decay if group["decays"] else 0.0)


def test_what_does_not_decay_stays_without_a_gradient_to_follow_and_what_decays_shrinks(student: nn.Module) -> None:
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    decays = slow_decays(student)
    optimizer = torch.optim.AdamW(parameter_groups(student, DEPTH))
    write_schedule(optimizer.param_groups, lr=0.1, weight_decay=0.5)
    for p in student.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in student.named_parameters():
        assert torch.allclose(p, before[name] * (0.95 if decays[name] else 1.0), rtol=1e-6), name


def test_a_frozen_last_layer_keeps_its_weights_and_gathers_no_moments_and_then_starts_afresh(
    student: nn.Module,
) -> None:
    optimizer = torch.optim.AdamW(parameter_groups(student, DEPTH))
    last = {name: p for name, p in student.named_parameters() if ".last_layer." in name}
    others = {name: p for name, p in student.named_parameters() if ".last_layer." not in name}
    start = {name: p.detach().clone() for name, p in student.named_parameters()}

    def step(seed: int, *, frozen: bool) -> None:
        write_schedule(optimizer.param_groups, lr=0.01, weight_decay=0.4)
        generator = torch.Generator().manual_seed(seed)
        for p in student.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        if frozen:
            drop_last_layer_gradients(optimizer.param_groups)
        optimizer.step()

    for seed in range(5):
        step(seed, frozen=True)
    for name, p in last.items():
        assert torch.equal(p, start[name]), name
        assert p not in optimizer.state, name
    for name, p in others.items():
        assert not torch.equal(p, start[name]), name
        assert optimizer.state[p]["step"] == 5, name

    step(5, frozen=False)
    for name, p in last.items():
        # The first step of a fresh AdamW: its rate, against the sign of the gradient, after the decay.
        decayed = start[name] * (1.0 if name.endswith(LENGTH) else 1 - 0.01 * 0.4)
        assert p.grad is not None
        assert torch.allclose(p, decayed - 0.01 * p.grad.sign(), rtol=1e-4, atol=1e-5), name
        assert optimizer.state[p]["step"] == 1, name


@pytest.fixture
def learning(make_method: Make) -> nn.Module:
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
def test_gradients_are_clipped_as_torch_clips_each_part(learning: nn.Module, by: By, limit: float) -> None:
    before = gradients(learning)
    expected = clipped_by_torch(learning, limit, by)
    whole = clip_gradients(learning, limit, by)
    assert whole.shape == ()
    assert float(whole) == pytest.approx(norm([g for g in before.values() if g is not None]), rel=1e-6)
    after = gradients(learning)
    for name, gradient in after.items():
        if gradient is None:
            assert expected[name] is None
        else:
            assert torch.equal(gradient, expected[name]), name


def test_by_module_backbone_and_heads_are_measured_apart(learning: nn.Module) -> None:
    for p in learning.backbone.parameters():
        if p.grad is not None:
            p.grad.mul_(1e-6)
    before = gradients(learning)
    clip_gradients(learning, 3.0, "module")
    after = gradients(learning)
    for part in ("backbone", "head", "patch_head"):
        names = [name for name, g in before.items() if name.startswith(f"{part}.") and g is not None]
        long = norm([before[name] for name in names])
        assert norm([after[name] for name in names]) == pytest.approx(min(long, 3.0), rel=1e-5)
    assert torch.equal(after["backbone.norm.weight"], before["backbone.norm.weight"]), "a burst in a head is its own"


def test_the_whole_keeps_its_direction_and_parameters_each_have_the_limit(learning: nn.Module) -> None:
    before = gradients(learning)
    clip_gradients(learning, 1.0, "whole")
    factors = [after / before[name] for name, after in gradients(learning).items() if after is not None]
    assert torch.cat([f.flatten() for f in factors]).std() < 1e-6

    for name, p in learning.named_parameters():
        p.grad = before[name]
    clip_gradients(learning, 1.0, "parameter")
    for name, p in learning.named_parameters():
        if p.grad is not None:
            assert norm([p.grad]) <= 1.0 + 1e-6, name


@each_way
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_number_that_is_not_finite_is_seen_in_the_norm(learning: nn.Module, by: By, bad: float) -> None:
    learning.get_parameter("head.mlp.0.weight").grad[0, 0] = bad
    assert not clip_gradients(learning, 3.0, by).isfinite()


@each_way
def test_without_any_gradient_the_norm_is_zero(learning: nn.Module, by: By) -> None:
    learning.zero_grad(set_to_none=True)
    assert clip_gradients(learning, 3.0, by) == 0.0


@each_way
def test_nothing_waits_for_the_device(learning: nn.Module, by: By) -> None:
    """Tensors without values: whoever asked for one would fail, as it would make the host wait for a GPU."""
    learning.to("meta")
    for p in learning.parameters():
        p.grad = torch.empty_like(p)
    whole = clip_gradients(learning, 3.0, by)
    assert whole.is_meta
    with pytest.raises(RuntimeError, match="meta"):
        whole.item()
