from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from backbone.architecture import named
from training.errors import ConfigInvalid
from training.losses import dino_loss, ibot_loss, koleo_loss, softmax_targets
from training.masks import draw_masks
from training.method import SelfDistillation

Make = Callable[..., SelfDistillation]
B, LOCAL = 4, 3


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = draw_masks(np.random.default_rng(seed), 2 * B, 4, 4)
    return (
        torch.randn(2 * B, 3, 16, 16, generator=generator),
        torch.randn(LOCAL * B, 3, 8, 8, generator=generator),
        torch.from_numpy(masks),
    )


@pytest.mark.parametrize("ibot_head", ["shared", "separate"])
def test_the_teacher_starts_as_a_copy_of_the_student_heads_included(make_method: Make, ibot_head: str) -> None:
    method = make_method(ibot_head=ibot_head)
    student, teacher = method.student.state_dict(), method.teacher.state_dict()
    assert student.keys() == teacher.keys()
    assert all(torch.equal(student[name], teacher[name]) for name in student)
    assert any(name.startswith("patch_head.") for name in student) == (ibot_head == "separate")


def test_the_teacher_never_gets_a_gradient_and_all_of_the_student_does(make_method: Make) -> None:
    method = make_method()
    method(*batch(), teacher_temperature=0.05).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    without = [name for name, p in method.student.named_parameters() if p.requires_grad and p.grad is None]
    assert not without


@pytest.mark.parametrize("recipe", ["dino", "dinov2"])
def test_no_trainable_parameter_is_unused_which_ddp_would_wait_for(make_method: Make, recipe: str) -> None:
    method = make_method(recipe)
    method(*batch(), teacher_temperature=0.05).total.backward()
    assert not [name for name, p in method.student.named_parameters() if p.requires_grad and p.grad is None]


def test_the_losses_are_put_together_as_dinov2_does(make_method: Make) -> None:
    method = make_method(centring="softmax").eval()
    views, local, masks = batch()
    losses = method(views, local, masks, teacher_temperature=0.05)

    with torch.no_grad():
        seen = method.teacher.backbone(views)
        targets = softmax_targets(method.teacher.head(seen.global_token), torch.zeros(24), 0.05)
        patch_targets = softmax_targets(method.teacher.head(seen.patch_tokens[masks]), torch.zeros(24), 0.05)
        tokens = method.student.backbone(views, masks)
        rows = torch.cat([tokens.global_token, method.student.backbone(local).global_token])
        scores = method.student.head(rows).view(2 + LOCAL, B, 24)
        dino = dino_loss(scores, targets.view(2, B, 24))
        weights = torch.cat([torch.full((int(m.sum()),), 1 / int(m.sum())) for m in masks if m.any()])
        ibot = ibot_loss(method.student.head(tokens.patch_tokens[masks]), patch_targets, weights, 2 * B)
        koleo = koleo_loss(tokens.global_token[:B]) + koleo_loss(tokens.global_token[B:])
    for ours, slow in ((losses.dino, dino), (losses.ibot, ibot), (losses.koleo, koleo)):
        assert float(ours) == pytest.approx(float(slow), rel=1e-5)
    assert float(losses.total.detach()) == pytest.approx(float(dino + ibot + 0.1 * koleo), rel=1e-5)


def test_the_teacher_sees_whole_images_and_keeps_its_targets_whatever_is_masked(make_method: Make) -> None:
    method = make_method(centring="softmax")
    views, local, masks = batch()
    method(views, local, masks, teacher_temperature=0.05)
    method.update_teacher(1.0)
    centre = method.centre.clone()
    other = make_method(centring="softmax")
    other(views, local, torch.zeros_like(masks), teacher_temperature=0.05)
    other.update_teacher(1.0)
    assert torch.allclose(centre, other.centre)


def test_a_step_uses_the_centre_of_earlier_steps_only(make_method: Make) -> None:
    method = make_method("dino", centring="softmax").eval()
    first = method(*batch(), teacher_temperature=0.05).dino
    assert method.centre.abs().sum() == 0
    method.update_teacher(1.0)
    assert method.centre.abs().sum() > 0
    second = method(*batch(), teacher_temperature=0.05).dino
    assert first != second
    method.centre.zero_()
    assert method(*batch(), teacher_temperature=0.05).dino == first


@pytest.mark.parametrize("name", ["vit", "resnet18"])
def test_a_skipped_step_leaves_no_trace_in_centres_and_running_statistics(make_method: Make, name: str) -> None:
    method = make_method("dino", *([] if name == "vit" else [named(name)]), centring="softmax")
    views, local = torch.randn(2 * B, 3, 32, 32), torch.randn(LOCAL * B, 3, 32, 32)
    method(views, local, None, teacher_temperature=0.05)
    method.update_teacher(1.0)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    method(views * torch.nan, local * torch.nan, None, teacher_temperature=0.05)
    method.skip_step()
    method(views, local, None, teacher_temperature=0.05)
    method.skip_step()
    after = method.state_dict()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []


def test_batches_of_one_step_move_the_centre_together(make_method: Make) -> None:
    views, _, _ = batch()
    whole, halves = make_method("dino", centring="softmax"), make_method("dino", centring="softmax")
    whole(views, None, None, 0.05)
    for half in (slice(0, B // 2), slice(B // 2, B)):
        halves(views.view(2, B, 3, 16, 16)[:, half].flatten(0, 1), None, None, 0.05)
    whole.update_teacher(1.0)
    halves.update_teacher(1.0)
    assert torch.allclose(whole.centre, halves.centre, rtol=1e-5, atol=1e-8)


def test_the_teacher_moves_by_the_momentum_and_only_when_told(make_method: Make) -> None:
    method = make_method()
    before = {name: p.clone() for name, p in method.teacher.named_parameters()}
    with torch.no_grad():
        for p in method.student.parameters():
            p.add_(1.0)
    method(*batch(), teacher_temperature=0.05)
    assert all(torch.equal(p, before[name]) for name, p in method.teacher.named_parameters())
    method.update_teacher(0.75)
    for name, p in method.teacher.named_parameters():
        assert torch.allclose(p, before[name] + 0.25, atol=1e-6), name
    method.update_teacher(1.0)
    assert all(torch.allclose(p, before[name] + 0.25, atol=1e-6) for name, p in method.teacher.named_parameters())


def test_a_vit_teacher_stays_in_evaluation_mode(make_method: Make) -> None:
    method = make_method().train()
    assert method.student.training
    assert not any(module.training for module in method.teacher.modules())


def test_a_cnn_teacher_normalises_by_the_batch_and_gathers_its_own_statistics(make_method: Make) -> None:
    method = make_method("dino", named("resnet18")).train()
    before = method.teacher.backbone.state_dict()["bn1.running_mean"].clone()
    method(torch.randn(8, 3, 32, 32), torch.randn(8, 3, 16, 16), None, 0.05).total.backward()
    after = method.teacher.backbone.state_dict()["bn1.running_mean"]
    assert not torch.equal(before, after)
    method.update_teacher(0.5)
    assert torch.equal(after, method.teacher.backbone.state_dict()["bn1.running_mean"])
    assert not method.eval().teacher.training


def test_asking_for_ibot_on_a_cnn_is_refused_with_the_way_out(make_method: Make) -> None:
    with pytest.raises(ConfigInvalid, match="set ibot_weight=0 or take a ViT"):
        make_method("dino", named("resnet18"), ibot_weight=1.0)


def test_one_image_without_local_views_still_gives_finite_losses(make_method: Make) -> None:
    losses = make_method()(torch.randn(2, 3, 16, 16), None, None, 0.05)
    assert all(bool(loss.isfinite().all()) for loss in losses)


def test_the_teachers_entropy_is_one_where_its_targets_are_uniform(make_method: Make) -> None:
    losses = make_method("dino")(*batch(), teacher_temperature=1e6)
    assert float(losses.teacher_entropy) == pytest.approx(1.0, abs=1e-5)


def test_the_method_learns_without_lightning(make_method: Make) -> None:
    """The student finds which of four pictures a view comes from; the loss falls well below that of a guess."""
    method = make_method("dino")
    for name, p in [*method.student.named_parameters(), *method.teacher.named_parameters()]:
        if name.endswith(".gamma"):
            torch.nn.init.ones_(p)  # DINO has no LayerScale
    optimizer = torch.optim.AdamW(method.student.parameters(), 3e-3)
    pictures = torch.randn(B, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    losses = []
    for step in range(60):
        noise = torch.randn(2, B, 3, 16, 16, generator=torch.Generator().manual_seed(step)) * 0.3
        loss = method((pictures + noise).flatten(0, 1), None, None, 0.04).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.update_teacher(0.9)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * math.log(24)
    with torch.no_grad():
        known, seen = (method.teacher.backbone.embed(x) for x in (pictures, pictures + noise[0]))
    assert (seen @ known.T).argmax(dim=1).tolist() == list(range(B))


def test_a_batch_goes_through_each_network_once_a_resolution_and_through_a_shared_head_once(make_method: Make) -> None:
    method = make_method("dinov2")
    calls: list[str] = []
    for name in ("student.backbone", "student.head", "teacher.backbone", "teacher.head"):
        method.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    method(*batch(), teacher_temperature=0.05)
    expected = ["teacher.backbone", "teacher.head", "student.backbone", "student.backbone", "student.head"]
    assert sorted(calls) == sorted(expected)
