"""Each loss against a slow version written from the paper's formula, in Python and numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.losses import (
    dino_loss,
    ibot_loss,
    koleo_loss,
    moved_centre,
    sinkhorn_targets,
    softmax_targets,
)

Array = NDArray[np.float64]
PRECISIONS = [(torch.float32, 1e-5), (torch.float64, 1e-10)]


def softmax(row: Array) -> Array:
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def cross_entropy(target: Array, scores: Array, temperature: float) -> float:
    return -sum(p * math.log(q) for p, q in zip(target, softmax(scores / temperature), strict=True))


def scores(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def targets(*shape: int, seed: int = 1) -> Array:
    return np.apply_along_axis(softmax, -1, scores(*shape, seed=seed) * 3)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_dino_averages_over_all_pairs_of_different_views(dtype: torch.dtype, tolerance: float) -> None:
    student, teacher = scores(6, 3, 11), targets(2, 3, 11)
    pairs = [(t, v) for t in range(2) for v in range(6) if t != v]
    slow = np.mean([cross_entropy(teacher[t, b], student[v, b], 0.1) for t, v in pairs for b in range(3)])
    fast = dino_loss(torch.tensor(student, dtype=dtype), torch.tensor(teacher, dtype=dtype), 0.1)
    assert float(fast) == pytest.approx(slow, rel=tolerance)


def test_dino_is_the_logarithm_of_the_prototypes_where_both_sides_are_uniform() -> None:
    K = 64
    loss = dino_loss(torch.zeros(4, 2, K), torch.full((2, 2, K), 1 / K))
    assert float(loss.detach()) == pytest.approx(math.log(K), rel=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_ibot_averages_over_the_patches_of_a_crop_and_then_over_all_crops(dtype: torch.dtype, tolerance: float) -> None:
    per_crop = [3, 1, 0, 0]
    student, teacher = scores(4, 7), targets(4, 7)
    each = [cross_entropy(teacher[row], student[row], 0.1) for row in range(4)]
    slow = (np.mean(each[:3]) + each[3] + 0 + 0) / len(per_crop)
    weights = torch.tensor([1 / 3] * 3 + [1.0], dtype=dtype)
    fast = ibot_loss(torch.tensor(student, dtype=dtype), torch.tensor(teacher, dtype=dtype), weights, crops=4)
    assert float(fast) == pytest.approx(slow, rel=tolerance)


def test_ibot_without_masked_patches_is_zero_and_can_go_backward() -> None:
    student = torch.zeros(0, 7, requires_grad=True)
    loss = ibot_loss(student, torch.zeros(0, 7), torch.zeros(0), crops=4)
    loss.backward()
    assert float(loss.detach()) == 0.0


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_koleo_is_minus_the_mean_log_distance_to_the_nearest_neighbour(dtype: torch.dtype, tolerance: float) -> None:
    x = scores(9, 5)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    nearest = [min(np.linalg.norm(unit[i] - unit[j]) for j in range(9) if j != i) for i in range(9)]
    slow = -np.mean(np.log(nearest))
    assert float(koleo_loss(torch.tensor(x, dtype=dtype))) == pytest.approx(slow, rel=tolerance)


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


def test_koleo_pushes_neighbours_apart() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]], requires_grad=True)
    before = koleo_loss(x)
    before.backward()
    assert x.grad is not None
    assert koleo_loss(x.detach() - 0.01 * x.grad) < before.detach()


def test_targets_are_the_softmax_of_centred_scores() -> None:
    raw, centre = scores(5, 7), scores(7, seed=2)
    fast = softmax_targets(torch.tensor(raw), torch.tensor(centre), 0.07)
    slow = [softmax((row - centre) / 0.07) for row in raw]
    assert np.allclose(fast.numpy(), slow, rtol=1e-10)


def test_the_centre_moves_by_a_tenth_towards_the_mean_and_not_at_all_without_rows() -> None:
    centre, raw = torch.tensor(scores(7)), torch.tensor(scores(5, 7, seed=3))
    moved = moved_centre(centre, raw, momentum=0.9)
    assert torch.allclose(moved, 0.9 * centre + 0.1 * raw.mean(dim=0), rtol=1e-12)
    assert torch.equal(moved_centre(centre, raw[:0]), centre)


def slow_sinkhorn(raw: Array, temperature: float, iterations: int) -> Array:
    """SwAV's listing (arXiv:2006.09882, appendix A.1), without logarithms."""
    Q = np.exp(raw / temperature).T
    K, B = Q.shape
    Q /= Q.sum()
    for _ in range(iterations):
        Q /= Q.sum(axis=1, keepdims=True) * K
        Q /= Q.sum(axis=0, keepdims=True) * B
    return (Q * B).T


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_sinkhorn_agrees_with_the_listing_of_the_paper(dtype: torch.dtype, tolerance: float) -> None:
    raw = scores(12, 5) * 0.2
    fast = sinkhorn_targets(torch.tensor(raw, dtype=dtype), 0.07)
    assert np.allclose(fast.numpy(), slow_sinkhorn(raw, 0.07, 3), rtol=tolerance, atol=1e-12)


def test_sinkhorn_uses_every_prototype_alike_after_many_rounds() -> None:
    assigned = sinkhorn_targets(torch.tensor(scores(12, 5)), 0.5, iterations=100)
    assert torch.allclose(assigned.sum(dim=1), torch.ones(12, dtype=torch.float64))
    assert torch.allclose(assigned.sum(dim=0), torch.full((5,), 12 / 5, dtype=torch.float64))


def test_sinkhorn_bears_scores_whose_exponential_overflows() -> None:
    assigned = sinkhorn_targets(torch.tensor(scores(6, 5), dtype=torch.float32) * 1000, 0.04)
    assert assigned.isfinite().all()
    assert torch.allclose(assigned.sum(dim=1), torch.ones(6))


def test_sinkhorn_of_nothing_is_nothing() -> None:
    assert sinkhorn_targets(torch.zeros(0, 5), 0.07).shape == (0, 5)
