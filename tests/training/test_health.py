"""Each number against a slow version in numpy, and at both ends of its scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.health import feature_std, prototype_use, rank_me, relative_entropy

Array = NDArray[np.float64]
PRECISIONS = [(torch.float32, 1e-5), (torch.float64, 1e-10)]


def probabilities(rows: int, prototypes: int, seed: int = 0) -> Array:
    powers = np.exp(np.random.default_rng(seed).normal(size=(rows, prototypes)) * 3)
    return powers / powers.sum(axis=1, keepdims=True)


def entropy(row: Array) -> float:
    return -sum(p * math.log(p) for p in row if p > 0)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_the_entropy_is_the_mean_of_the_rows_over_that_of_the_uniform(dtype: torch.dtype, tolerance: float) -> None:
    targets = probabilities(7, 11)
    slow = np.mean([entropy(row) for row in targets]) / math.log(11)
    assert float(relative_entropy(torch.tensor(targets, dtype=dtype))) == pytest.approx(slow, rel=tolerance)


def test_the_entropy_is_one_of_uniform_rows_and_zero_of_sharp_ones() -> None:
    assert float(relative_entropy(torch.full((3, 16), 1 / 16))) == pytest.approx(1.0, rel=1e-6)
    assert float(relative_entropy(torch.eye(4))) == 0.0


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_prototype_use_is_the_perplexity_of_the_mean_row_over_the_prototypes(
    dtype: torch.dtype, tolerance: float
) -> None:
    targets = probabilities(7, 11)
    slow = math.exp(entropy(targets.mean(axis=0))) / 11
    assert float(prototype_use(torch.tensor(targets, dtype=dtype))) == pytest.approx(slow, rel=tolerance)


def test_prototype_use_is_one_where_all_are_used_alike_and_one_of_them_where_one_is() -> None:
    assert float(prototype_use(torch.eye(8))) == pytest.approx(1.0, rel=1e-6)
    assert float(prototype_use(torch.eye(8)[[3, 3, 3]])) == pytest.approx(1 / 8, rel=1e-6)
    assert float(prototype_use(torch.eye(8)[[3, 5]])) == pytest.approx(2 / 8, rel=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_feature_std_is_the_mean_deviation_of_the_directions_times_the_root_of_the_width(
    dtype: torch.dtype, tolerance: float
) -> None:
    tokens = np.random.default_rng(0).normal(size=(9, 5)) + 0.5
    unit = [row / math.sqrt(sum(row**2)) for row in tokens]
    per_dimension = []
    for column in np.transpose(unit):
        mean = sum(column) / len(column)
        per_dimension.append(math.sqrt(sum((x - mean) ** 2 for x in column) / len(column)))
    slow = sum(per_dimension) / len(per_dimension) * math.sqrt(5)
    assert float(feature_std(torch.tensor(tokens, dtype=dtype))) == pytest.approx(slow, rel=tolerance)


def test_feature_std_is_near_one_on_the_whole_sphere_and_zero_where_all_point_the_same_way() -> None:
    directions = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    assert 0.99 < float(feature_std(directions)) <= 1.0
    lengths = torch.tensor([[1.0], [2.0], [40.0]])
    assert float(feature_std(lengths * torch.arange(1.0, 9.0))) == pytest.approx(0.0, abs=1e-6)


@given(st.integers(2, 12), st.integers(1, 12), st.floats(-5, 5), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_feature_std_and_rank_stay_on_their_scales(rows: int, width: int, shift: float, seed: int) -> None:
    tokens = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) + shift
    assert 0.0 <= float(feature_std(tokens)) <= 1.0 + 1e-6
    assert 1.0 - 1e-6 <= float(rank_me(tokens)) <= min(rows, width) + 1e-5


@pytest.mark.parametrize("rows", [0, 1])
def test_one_vector_has_no_spread_to_speak_of(rows: int) -> None:
    assert math.isnan(float(feature_std(torch.ones(rows, 4))))


def test_rank_is_the_exponential_of_the_entropy_of_the_singular_values() -> None:
    tokens = np.random.default_rng(0).normal(size=(9, 5))
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(tokens.T @ tokens), 0))
    slow = math.exp(entropy(values / values.sum()))
    assert float(rank_me(torch.tensor(tokens))) == pytest.approx(slow, rel=1e-6)


def test_rank_counts_the_dimensions_that_are_filled_whatever_the_length_and_the_number_of_rows() -> None:
    assert float(rank_me(torch.eye(6))) == pytest.approx(6.0, rel=1e-6)
    assert float(rank_me(torch.eye(6)[[0, 1, 0, 1]] * 1e-6)) == pytest.approx(2.0, rel=1e-6)
    assert float(rank_me(torch.ones(7, 6))) == pytest.approx(1.0, rel=1e-6)
    assert float(rank_me(torch.ones(1, 6))) == pytest.approx(1.0, rel=1e-6)


def test_rank_bears_nothing_zeros_and_numbers_that_are_not_finite() -> None:
    assert float(rank_me(torch.zeros(4, 6))) == 0.0
    assert float(rank_me(torch.zeros(0, 6))) == 0.0
    assert math.isnan(float(rank_me(torch.tensor([[1.0, math.nan], [0.0, 1.0]]))))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_full(dtype: torch.dtype) -> None:
    targets = torch.full((4, 1000), 1 / 1000, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(relative_entropy(targets)) == pytest.approx(1.0, abs=1e-2)
        for number in (relative_entropy(targets), prototype_use(targets), feature_std(targets), rank_me(targets)):
            assert number.dtype == torch.float32


def test_no_number_holds_on_to_the_graph() -> None:
    tokens = torch.randn(4, 6, requires_grad=True)
    targets = tokens.softmax(dim=1)
    numbers = (relative_entropy(targets), prototype_use(targets), feature_std(tokens), rank_me(tokens))
    assert not any(number.requires_grad for number in numbers)
