"""Each loss and target against LightlySSL's module, or against a slow version written from the paper's formula in numpy.

Both sides get the same numbers, the other side always in float64: so float32 is held to the truth and not to another rounding.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
from lightly.loss.swav_loss import sinkhorn
from lightly.models.modules.center import Center
from numpy.typing import NDArray
from torch import Tensor

from training.losses import (
    centre_moved_by,
    dino_loss,
    ibot_loss,
    koleo_loss,
    score_sums,
    sinkhorn_targets,
    softmax_targets,
)

Array = NDArray[np.float64]
PRECISIONS = [(torch.float32, 1e-6), (torch.float64, 1e-10)]
precisions = pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
sizes = pytest.mark.parametrize("prototypes", [64, 4096])
B, LOCAL = 16, 8
# LightlySSL keeps a temperature in a float32 tensor: take ones that float32 holds exactly as it would round them.
TEACHER_TEMPERATURES = [float(np.float32(t)) for t in (0.04, 0.05, 0.07)]


def head_scores(*shape: int, seed: int = 0, length: float = 1.0) -> Tensor:
    """Scores as a head gives them, in float32: cosines of vectors in a few groups with random prototypes, times a length."""
    generator = torch.Generator().manual_seed(seed)
    rows, prototypes = math.prod(shape[:-1]), shape[-1]
    groups = torch.randn(8, 256, generator=generator)[torch.randint(0, 8, (rows,), generator=generator)]
    vectors = F.normalize(groups + 0.7 * torch.randn(rows, 256, generator=generator), dim=-1)
    weights = F.normalize(torch.randn(prototypes, 256, generator=generator), dim=-1)
    return (length * vectors @ weights.T).view(shape)


def targets(*shape: int, seed: int = 1) -> Tensor:
    return softmax_targets(head_scores(*shape, seed=seed), torch.zeros(shape[-1]), 0.04)


def assert_agrees(ours: Tensor, truth: Tensor, tolerance: float) -> None:
    """Relative to the largest entry of each row: an entry far below it is the difference of numbers as large as that one."""
    assert ours.shape == truth.shape
    error = (ours.double() - truth).abs()
    scale = truth.abs().amax(dim=-1, keepdim=True) if truth.ndim else truth.abs()
    assert (error <= tolerance * scale).all(), f"relative error {float((error / scale).max()):.2g}"


def with_gradient(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.detach().to(dtype).requires_grad_()


def gradient(loss: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(loss, x)[0]


# --- DINO ---


@precisions
@sizes
def test_dino_is_lightlys_loss_over_multi_crop_batches_while_its_centre_and_temperature_move(
    dtype: torch.dtype, tolerance: float, prototypes: int
) -> None:
    oracle = DINOLoss(prototypes, center_momentum=0.9).double()
    centre = torch.zeros(prototypes, dtype=dtype)
    for step, temperature in enumerate(TEACHER_TEMPERATURES):
        raw_student = head_scores(2 + LOCAL, B, prototypes, seed=step)
        raw_teacher = head_scores(2, B, prototypes, seed=100 + step)
        truth_student = with_gradient(raw_student, torch.float64)
        truth = oracle(list(raw_teacher.double()), list(truth_student), teacher_temp=temperature)

        student, teacher = with_gradient(raw_student, dtype), raw_teacher.to(dtype)
        loss = dino_loss(student, softmax_targets(teacher, centre, temperature))
        centre = centre_moved_by(centre, score_sums(teacher.flatten(0, 1), centre), momentum=0.9)

        assert_agrees(loss.detach(), truth.detach(), tolerance)
        assert_agrees(gradient(loss, student), gradient(truth, truth_student), tolerance)
        assert_agrees(centre, oracle.center.flatten(), tolerance)


@precisions
def test_dino_averages_over_all_pairs_of_different_views(dtype: torch.dtype, tolerance: float) -> None:
    """Equation 3 by hand: every one of the 2 * 6 - 2 pairs counts alike, and the gradient is (p - target) / temperature."""
    student, teacher = head_scores(6, 3, 11), targets(2, 3, 11)
    slow, slow_gradient = 0.0, np.zeros((6, 3, 11))
    pairs = [(t, v) for t in range(2) for v in range(6) if t != v]
    for t, v in pairs:
        for b in range(3):
            p = softmax(student[v, b].double().numpy() / 0.1)
            target = teacher[t, b].double().numpy()
            slow -= float(target @ np.log(p)) / (3 * len(pairs))
            slow_gradient[v, b] += (p * target.sum() - target) / (0.1 * 3 * len(pairs))
    x = with_gradient(student, dtype)
    loss = dino_loss(x, teacher.to(dtype))
    assert float(loss.detach()) == pytest.approx(slow, rel=tolerance)
    assert_agrees(gradient(loss, x), torch.from_numpy(slow_gradient), tolerance)


def softmax(row: Array) -> Array:
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def test_dino_is_the_logarithm_of_the_prototypes_where_both_sides_are_uniform() -> None:
    K = 64
    loss = dino_loss(torch.zeros(4, 2, K), torch.full((2, 2, K), 1 / K))
    assert float(loss.detach()) == pytest.approx(math.log(K), rel=1e-6)


# --- iBOT ---


def masked_grid(crops: int, seed: int = 0) -> Tensor:
    """[crops, 7, 7]: half of the crops unmasked, the others with 1 to 20 masked patches."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.tensor([0.0, 0.4] * (crops // 2)) * torch.rand(crops, generator=generator)
    masks = torch.rand(crops, 7, 7, generator=generator) < shares[:, None, None]
    masks[1::2, 0, 0] = True
    return masks


def patch_weights(masks: Tensor) -> Tensor:
    """In float32, as LightlySSL has them whatever the loss is computed in."""
    counts = masks.flatten(1).sum(dim=1).clamp_min(1)
    return (1.0 / counts)[:, None, None].expand_as(masks)[masks]


@precisions
@sizes
def test_ibot_is_lightlys_loss_while_its_centre_and_temperature_move(
    dtype: torch.dtype, tolerance: float, prototypes: int
) -> None:
    oracle = IBOTPatchLoss(prototypes, center_momentum=0.9).double()
    centre = torch.zeros(prototypes, dtype=dtype)
    for step, temperature in enumerate(TEACHER_TEMPERATURES):
        masks = masked_grid(2 * B, seed=step)
        patches = int(masks.sum())
        raw_student, raw_teacher = (head_scores(patches, prototypes, seed=seed) for seed in (step, 100 + step))
        truth_student = with_gradient(raw_student, torch.float64)
        truth = oracle(raw_teacher.double(), truth_student, masks, teacher_temp=temperature)

        student, teacher = with_gradient(raw_student, dtype), raw_teacher.to(dtype)
        target = softmax_targets(teacher, centre, temperature)
        loss = ibot_loss(student, target, patch_weights(masks), len(masks))
        centre = centre_moved_by(centre, score_sums(teacher, centre), momentum=0.9)

        assert_agrees(loss.detach(), truth.detach(), tolerance)
        assert_agrees(gradient(loss, student), gradient(truth, truth_student), tolerance)
        assert_agrees(centre, oracle.center.value.flatten(), tolerance)


@precisions
def test_ibot_averages_over_the_patches_of_a_crop_and_then_over_all_crops(dtype: torch.dtype, tolerance: float) -> None:
    student, teacher = head_scores(4, 7), targets(4, 7)
    truth = [-(teacher[m].double().numpy() @ np.log(softmax(student[m].double().numpy() / 0.1))) for m in range(4)]
    slow = (np.mean(truth[:3]) + truth[3] + 0 + 0) / 4  # three masked patches, one, and two crops without any
    weights = torch.tensor([1 / 3] * 3 + [1.0], dtype=torch.float64)
    fast = ibot_loss(student.to(dtype), teacher.to(dtype), weights, crops=4)
    assert float(fast) == pytest.approx(slow, rel=tolerance)


def test_ibot_without_masked_patches_is_zero_and_can_go_backward() -> None:
    student = torch.zeros(0, 7, requires_grad=True)
    loss = ibot_loss(student, torch.zeros(0, 7), torch.zeros(0), crops=4)
    loss.backward()
    assert float(loss.detach()) == 0.0


# --- KoLeo ---


@precisions
@pytest.mark.parametrize("shape", [(2, 3), (16, 384), (64, 32)])
def test_koleo_is_lightlys_loss(dtype: torch.dtype, tolerance: float, shape: tuple[int, int]) -> None:
    x = 3.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    truth_x, ours_x = with_gradient(x, torch.float64), with_gradient(x, dtype)
    truth = KoLeoLoss(eps=0.0)(truth_x)  # its eps is added to every coordinate, and moves the value by as much
    loss = koleo_loss(ours_x)
    assert_agrees(loss.detach(), truth.detach(), tolerance)
    assert_agrees(gradient(loss, ours_x), gradient(truth, truth_x), tolerance)


def slow_koleo(x: Array, bank: Array, offset: int) -> float:
    z, others = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, bank))
    distances = [
        min(np.linalg.norm(z[i] - others[j]) for j in range(len(bank)) if j != offset + i) for i in range(len(x))
    ]
    return -float(np.mean(np.log(distances)))


@precisions
@pytest.mark.parametrize("offset", [0, 5, 12])
def test_koleo_looks_for_neighbours_in_a_bank_and_passes_over_the_vector_itself(
    dtype: torch.dtype, tolerance: float, offset: int
) -> None:
    bank = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    x = bank[offset : offset + 4]
    truth = slow_koleo(x.double().numpy(), bank.double().numpy(), offset)
    assert float(koleo_loss(x.to(dtype), bank.to(dtype), offset)) == pytest.approx(truth, rel=tolerance)


def test_koleo_of_all_vectors_in_parts_is_that_of_all_at_once_with_its_gradient() -> None:
    bank = with_gradient(torch.randn(12, 8, generator=torch.Generator().manual_seed(2)), torch.float64)
    parts = torch.stack([koleo_loss(bank[start : start + 4], bank, start) for start in (0, 4, 8)]).mean()
    whole = koleo_loss(bank)
    assert_agrees(parts.detach(), whole.detach(), 1e-12)
    assert_agrees(gradient(parts, bank), gradient(whole, bank), 1e-10)


def test_koleo_moves_a_neighbour_in_the_bank_as_well() -> None:
    x, near, far = (with_gradient(torch.tensor([row]), torch.float32) for row in ([1.0, 0.0], [1.0, 0.2], [-1.0, 0.0]))
    koleo_loss(x, torch.cat([x.detach(), near, far])).backward()
    assert x.grad is not None
    assert near.grad is not None
    assert far.grad is not None
    assert x.grad[0, 1] > 0 > near.grad[0, 1]
    assert far.grad.abs().sum() == 0


@pytest.mark.parametrize("offset", [-1, 3])
def test_koleo_refuses_rows_that_are_not_in_the_bank(offset: int) -> None:
    with pytest.raises(ValueError, match="not all in a bank of 4"):
        koleo_loss(torch.randn(2, 8), torch.randn(4, 8), offset)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_koleo_of_duplicates_is_finite_with_a_finite_gradient(dtype: torch.dtype) -> None:
    x = torch.ones(4, 8, dtype=dtype, requires_grad=True)
    loss = koleo_loss(x)
    loss.backward()
    assert loss.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("images", [0, 1])
def test_koleo_of_fewer_than_two_images_is_zero_and_can_go_backward(images: int) -> None:
    x = torch.ones(images, 8, requires_grad=True)
    loss = koleo_loss(x)
    loss.backward()
    assert float(loss.detach()) == 0.0


def test_koleo_tells_apart_the_nearly_equal_vectors_of_a_fresh_network() -> None:
    """Distances of 2e-5: cosines are equal in float32, and any vector would pass for the nearest."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(384, generator=generator) + 2e-5 * torch.randn(16, 384, generator=generator)
    z = F.normalize(x, dim=-1)
    assert (z @ z.T > 1 - 1e-6).all()
    assert float(koleo_loss(x)) == pytest.approx(slow_koleo(x.double().numpy(), x.double().numpy(), 0), rel=1e-6)


def test_koleo_of_half_precision_tokens_is_computed_in_float32() -> None:
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(3)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = koleo_loss(x)
    assert loss.dtype == torch.float32
    assert_agrees(loss, koleo_loss(x.double()), 1e-6)


# --- targets ---


@precisions
@sizes
@pytest.mark.parametrize("temperature", [0.02, 0.07])
def test_targets_are_the_softmax_of_centred_scores(
    dtype: torch.dtype, tolerance: float, prototypes: int, temperature: float
) -> None:
    raw, centre = head_scores(2 * B, prototypes, length=4.0), 0.05 * head_scores(prototypes, seed=2)
    truth = [softmax((row - centre.double().numpy()) / temperature) for row in raw.double().numpy()]
    assert_agrees(
        softmax_targets(raw.to(dtype), centre.to(dtype), temperature), torch.tensor(np.array(truth)), tolerance
    )


@precisions
@sizes
def test_the_centre_is_lightlys_over_several_batches(dtype: torch.dtype, tolerance: float, prototypes: int) -> None:
    oracle = Center((1, prototypes), momentum=0.9).double()
    centre = torch.zeros(prototypes, dtype=dtype)
    for step in range(5):
        raw = head_scores(2 * B, prototypes, seed=step)
        oracle.update(raw.double())
        centre = centre_moved_by(centre, score_sums(raw.to(dtype), centre), momentum=0.9)
        assert_agrees(centre, oracle.value.flatten(), tolerance)


def test_the_centre_moves_once_for_all_batches_of_a_step_and_not_at_all_without_rows() -> None:
    centre, raw = head_scores(7).double(), head_scores(5, 7, seed=3).double()
    together = score_sums(raw[:2], centre) + score_sums(raw[2:], centre)
    truth = 0.9 * centre + 0.1 * raw.mean(dim=0)
    assert torch.allclose(centre_moved_by(centre, together, momentum=0.9), truth, rtol=1e-12)
    assert torch.equal(centre_moved_by(centre, score_sums(raw[:0], centre)), centre)


def slow_sinkhorn(raw: Array, temperature: float, iterations: int) -> Array:
    """SwAV's listing (arXiv:2006.09882, appendix A.1), without logarithms."""
    Q = np.exp(raw / temperature).T
    K, M = Q.shape
    Q /= Q.sum()
    for _ in range(iterations):
        Q /= Q.sum(axis=1, keepdims=True) * K
        Q /= Q.sum(axis=0, keepdims=True) * M
    return (Q * M).T


@precisions
@sizes
@pytest.mark.parametrize("temperature", [0.02, 0.07])
@pytest.mark.parametrize("length", [1.0, 4.0])
def test_sinkhorn_agrees_with_the_listing_of_the_paper_and_with_lightly(
    dtype: torch.dtype, tolerance: float, prototypes: int, temperature: float, length: float
) -> None:
    raw = head_scores(2 * B, prototypes, length=length)
    fast = sinkhorn_targets(raw.to(dtype), temperature)
    assert_agrees(fast, torch.from_numpy(slow_sinkhorn(raw.double().numpy(), temperature, 3)), tolerance)
    assert_agrees(fast, sinkhorn(raw.double(), iterations=3, epsilon=temperature), tolerance)


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_sinkhorn_takes_as_many_rounds_as_asked(iterations: int) -> None:
    raw = head_scores(12, 5).double()
    truth = torch.from_numpy(slow_sinkhorn(raw.numpy(), 0.07, iterations))
    assert_agrees(sinkhorn_targets(raw, 0.07, iterations), truth, 1e-10)


def test_sinkhorn_uses_every_prototype_alike_after_many_rounds() -> None:
    assigned = sinkhorn_targets(head_scores(12, 5).double(), 0.5, iterations=100)
    assert torch.allclose(assigned.sum(dim=1), torch.ones(12, dtype=torch.float64))
    assert torch.allclose(assigned.sum(dim=0), torch.full((5,), 12 / 5, dtype=torch.float64))


@pytest.mark.parametrize("iterations", [1, 3, 20])
def test_sinkhorn_bears_scores_whose_exponential_overflows(iterations: int) -> None:
    raw = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)) * 1000
    assert not torch.exp(raw / 0.04).isfinite().all()
    assigned = sinkhorn_targets(raw, 0.04, iterations)
    assert assigned.isfinite().all()
    assert torch.allclose(assigned.sum(dim=1), torch.ones(6))


def test_sinkhorn_bears_samples_that_all_want_the_same_prototype() -> None:
    raw = torch.full((6, 5), -1000.0)
    raw[:, 2] = 1000.0
    raw[0] *= 1.5
    assigned = sinkhorn_targets(raw, 0.04)
    assert assigned.isfinite().all()
    assert torch.allclose(assigned.sum(dim=1), torch.ones(6))


def test_sinkhorn_leaves_the_scores_as_they_were() -> None:
    raw = head_scores(6, 5)
    before = raw.clone()
    sinkhorn_targets(raw, 0.04)
    softmax_targets(raw, torch.ones(5), 0.04)
    assert torch.equal(raw, before)


def test_sinkhorn_of_nothing_is_nothing() -> None:
    assert sinkhorn_targets(torch.zeros(0, 5), 0.07).shape == (0, 5)
    assert softmax_targets(torch.zeros(0, 5), torch.zeros(5), 0.07).shape == (0, 5)
