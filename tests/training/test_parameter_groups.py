from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from training.method import SelfDistillation
from training.parameter_groups import drop_last_layer_gradients, parameter_groups, write_schedule

Make = Callable[..., SelfDistillation]


def treatments(
    method: SelfDistillation, layer_decay: float, patch_embed_lr: float
) -> dict[str, tuple[float, bool, bool]]:
    groups = parameter_groups(method.student, 2, layer_decay, patch_embed_lr)
    names = {id(p): name for name, p in method.student.named_parameters()}
    return {
        names[id(p)]: (group["lr_scale"], group["decays"], group["last_layer"])
        for group in groups
        for p in group["params"]
    }


def test_every_trainable_parameter_is_in_exactly_one_group(make_method: Make) -> None:
    method = make_method()
    groups = parameter_groups(method.student, 2)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in method.student.parameters() if p.requires_grad)


def test_biases_norms_and_scales_do_not_decay_and_matrices_do(make_method: Make) -> None:
    found = treatments(make_method(), 1.0, 1.0)
    for name in ("blocks.0.attn.qkv.bias", "blocks.1.norm2.weight", "blocks.0.ls1.gamma", "norm.weight"):
        assert not found[f"backbone.{name}"][1], name
    assert not found["head.last_layer.parametrizations.weight.original0"][1]
    for name in ("backbone.blocks.0.attn.qkv.weight", "backbone.cls_token", "head.mlp.0.weight"):
        assert found[name][1], name


def test_layers_near_the_pixels_learn_more_slowly(make_method: Make) -> None:
    found = treatments(make_method(), 0.5, 0.2)
    scale = {name: how[0] for name, how in found.items()}
    assert scale["backbone.pos_embed"] == scale["backbone.mask_token"] == 0.5**3
    assert scale["backbone.patch_embed.proj.weight"] == pytest.approx(0.2 * 0.5**3)
    assert scale["backbone.blocks.0.mlp.fc1.weight"] == 0.5**2
    assert scale["backbone.blocks.1.mlp.fc1.weight"] == 0.5
    assert scale["backbone.norm.weight"] == scale["head.mlp.0.weight"] == 1.0


def test_a_schedule_reaches_every_group(make_method: Make) -> None:
    groups = parameter_groups(make_method().student, 2, 0.5, 0.2)
    write_schedule(groups, lr=0.1, weight_decay=0.3)
    for group in groups:
        assert group["lr"] == pytest.approx(0.1 * group["lr_scale"])
        assert group["weight_decay"] == (0.3 if group["decays"] else 0.0)


def test_a_frozen_last_layer_does_not_move_at_all_and_gathers_no_moments(make_method: Make) -> None:
    method = make_method()
    groups = parameter_groups(method.student, 2)
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.5)
    before = {name: p.clone() for name, p in method.student.named_parameters()}
    for p in method.student.parameters():
        p.grad = torch.ones_like(p)
    drop_last_layer_gradients(optimizer.param_groups)
    optimizer.step()
    for name, p in method.student.named_parameters():
        if p.requires_grad:
            assert torch.equal(p, before[name]) == (".last_layer." in name), name
            assert (p in optimizer.state) == (".last_layer." not in name), name
