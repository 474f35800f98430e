from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.collapse import CollapseAlarm, feature_std, prototype_use, rank_me, relative_entropy
from training.config import TrainingConfig
from training.errors import Collapsed
from training.losses import dino_loss

K = 64
HEALTHY = {"dino": 3.0, "teacher_entropy": 0.7, "prototype_use": 0.8, "feature_std": 0.6}
UNIFORM = {**HEALTHY, "dino": math.log(K), "teacher_entropy": 1.0, "prototype_use": 1.0}
ONE_PROTOTYPE = {**HEALTHY, "dino": 0.0, "teacher_entropy": 0.0, "prototype_use": 1 / K}
ONE_VECTOR = {**HEALTHY, "feature_std": 0.0}
COLLAPSES = [("uniform", UNIFORM), ("one prototype", ONE_PROTOTYPE), ("one vector", ONE_VECTOR)]


def see(row: dict[str, float], patience: int = 0) -> str | None:
    """The name of the reason for which one row would stop a run without patience."""
    try:
        CollapseAlarm(K, patience).see(10, **row)
    except Collapsed as error:
        found = re.search(r"\((.*?)\)", str(error))
        assert found
        return found[1]
    return None


def test_a_healthy_row_is_no_reason() -> None:
    assert see(HEALTHY) is None


@pytest.mark.parametrize(("name", "row"), COLLAPSES)
def test_each_collapse_is_called_by_its_name(name: str, row: dict[str, float]) -> None:
    assert see(row) == name


@pytest.mark.parametrize(
    ("row", "sick"),
    [
        (
            {**UNIFORM, "dino": math.log(K) * 1.1},
            True,
        ),  # a learning rate so high that the student does not even get there
        ({**UNIFORM, "teacher_entropy": 0.99981}, True),
        ({**UNIFORM, "teacher_entropy": 0.99979}, False),
        ({**ONE_PROTOTYPE, "prototype_use": 1.49 / K}, True),
        ({**ONE_PROTOTYPE, "prototype_use": 1.51 / K}, False),
        ({**ONE_VECTOR, "feature_std": 0.0099}, True),
        ({**ONE_VECTOR, "feature_std": 0.0101}, False),
    ],
)
def test_the_limits_lie_where_they_are_said_to(row: dict[str, float], sick: bool) -> None:
    assert (see(row) is not None) == sick


def test_equal_vectors_are_named_before_the_equal_targets_that_they_make() -> None:
    assert see({**UNIFORM, "feature_std": 0.0}) == "one vector"


@pytest.mark.parametrize("key", list(HEALTHY))
def test_a_number_that_is_missing_says_nothing(key: str) -> None:
    assert see({**HEALTHY, key: math.nan}) is None


@pytest.mark.parametrize(("name", "row"), COLLAPSES)
def test_it_warns_once_at_half_the_patience_and_stops_at_its_end(name: str, row: dict[str, float]) -> None:
    alarm = CollapseAlarm(K, patience=100)
    answers = {step: alarm.see(step, **row) for step in range(1000, 1100, 10)}
    assert [step for step, answer in answers.items() if answer] == [1050]
    assert f"({name}) since step 1000" in str(answers[1050])
    assert "In 50 more steps" in str(answers[1050])
    with pytest.raises(Collapsed, match=f"{name}.*since step 1000.*stopped at step 1100"):
        alarm.see(1100, **row)


def test_a_healthy_row_gives_the_whole_patience_back() -> None:
    alarm = CollapseAlarm(K, patience=100)
    for start in (0, 200):
        warnings = [alarm.see(step, **UNIFORM) for step in range(start, start + 100, 10)]
        assert sum(warning is not None for warning in warnings) == 1
        assert alarm.see(start + 110, **HEALTHY) is None


def test_a_collapse_that_changes_its_face_is_still_one() -> None:
    alarm = CollapseAlarm(K, patience=100)
    alarm.see(0, **UNIFORM)
    alarm.see(40, **ONE_VECTOR)
    with pytest.raises(Collapsed, match=r"one prototype.*since step 0"):
        alarm.see(100, **ONE_PROTOTYPE)


def test_an_alarm_that_does_not_stop_warns_without_a_threat_and_lets_the_run_go_on() -> None:
    alarm = CollapseAlarm(K, patience=100, stops=False)
    warnings = [warning for step in range(0, 1000, 10) if (warning := alarm.see(step, **UNIFORM))]
    assert len(warnings) == 1
    assert "stopped" not in warnings[0]


@pytest.mark.parametrize(("name", "row"), COLLAPSES)
def test_the_advice_names_keys_that_there_are(name: str, row: dict[str, float]) -> None:
    with pytest.raises(Collapsed) as caught:
        CollapseAlarm(K, 0).see(0, **row)
    advice = str(caught.value).rpartition("stopped at step 0: ")[2]
    keys = {field.name for field in dataclasses.fields(TrainingConfig)}
    named = set(re.findall(r"[a-z]+(?:_[a-z]+)+|centring|prototypes|lr", advice))
    assert named
    assert named <= keys, name
    TrainingConfig.load(overrides=re.findall(r"\w+=[\w.]+", advice))  # and values that they take


def test_the_numbers_of_collapsed_targets_and_vectors_are_recognised() -> None:
    """From tensors to the name, as a run computes them."""

    def numbers(scores: torch.Tensor, tokens: torch.Tensor) -> dict[str, float]:
        targets = (scores / 0.04).softmax(dim=-1)
        return {
            "dino": float(dino_loss(scores.view(2, -1, K), targets.view(2, -1, K))),
            "teacher_entropy": float(relative_entropy(targets)),
            "prototype_use": float(prototype_use(targets)),
            "feature_std": float(feature_std(tokens)),
        }

    random = torch.Generator().manual_seed(0)
    tokens, scores = torch.randn(32, 16, generator=random), torch.randn(32, K, generator=random)
    assert see(numbers(scores, tokens)) is None
    assert see(numbers(scores * 1e-4, tokens)) == "uniform"
    assert see(numbers(scores + 10 * torch.eye(K)[5], tokens)) == "one prototype"
    assert see(numbers(scores, tokens * 1e-3 + 1)) == "one vector"


# Each number against a slow version in numpy, and at both ends of its scale.
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
