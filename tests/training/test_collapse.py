from __future__ import annotations

import dataclasses
import math
import re

import pytest
import torch

from training.collapse import CollapseAlarm
from training.config import TrainingConfig
from training.errors import Collapsed
from training.health import feature_std, prototype_use, relative_entropy
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
