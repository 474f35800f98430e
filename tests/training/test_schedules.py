from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.errors import ConfigInvalid
from training.length import DEFAULT_EPOCHS, Length, run_length
from training.schedules import Cosine, Ramp

PROGRESS = st.floats(0.0, 1.0)


def test_a_cosine_without_warmup_agrees_with_the_formula_of_the_papers() -> None:
    steps = 37
    schedule = Cosine(0.996, 1.0)
    for step in range(steps):
        paper = 1.0 - (1.0 - 0.996) * (math.cos(math.pi * step / steps) + 1) / 2
        assert schedule(step / steps) == pytest.approx(paper, rel=1e-12)


def test_a_warmup_rises_in_a_line_and_meets_the_cosine_without_a_jump() -> None:
    schedule = Cosine(4e-3, 1e-6, warmup=0.1)
    assert schedule(0.0) == 0.0
    assert schedule(0.05) == pytest.approx(2e-3)
    assert schedule(0.1) == pytest.approx(4e-3)
    assert schedule(math.nextafter(0.1, 0)) == pytest.approx(schedule(0.1), rel=1e-9)
    assert schedule(0.55) == pytest.approx((4e-3 + 1e-6) / 2)
    assert schedule(1.0) == pytest.approx(1e-6)


@given(PROGRESS, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_cosine_never_leaves_the_span_of_its_values(progress: float, start: float, end: float, warmup: float) -> None:
    value = Cosine(start, end, warmup)(progress)
    assert min(0.0, start, end) - 1e-12 <= value <= max(start, end) + 1e-12


def test_beyond_its_end_a_schedule_keeps_its_last_value() -> None:
    assert Cosine(1.0, 0.25)(1.7) == Cosine(1.0, 0.25)(1.0) == 0.25
    assert Ramp(0.04, 0.07, 0.3)(5.0) == 0.07


def test_the_teachers_temperature_rises_in_a_line_and_stays() -> None:
    ramp = Ramp(0.04, 0.07, 0.3)
    assert ramp(0.0) == 0.04
    assert ramp(0.15) == pytest.approx(0.055)
    assert ramp(0.3) == ramp(0.9) == 0.07


def test_a_ramp_without_length_is_constant() -> None:
    assert Ramp(0.04, 0.07, 0.0)(0.0) == 0.07


def test_a_run_is_as_far_as_its_nearest_limit() -> None:
    length = Length(steps=100, time_s=10.0)
    assert length.progress(50, 1.0) == 0.5
    assert length.progress(50, 8.0) == 0.8
    assert length.progress(99, 9.0) < 1.0
    assert length.progress(100, 0.0) == length.progress(0, 10.0) == length.progress(500, 99.0) == 1.0


def test_the_first_of_steps_and_epochs_ends_a_run() -> None:
    assert run_length(70, 10, None, steps_per_epoch=8).steps == 70
    assert run_length(90, 10, None, steps_per_epoch=8).steps == 80
    assert run_length(None, None, 5.0, steps_per_epoch=8) == Length(None, 5.0)
    assert run_length(None, None, None, steps_per_epoch=8).steps == 8 * DEFAULT_EPOCHS


@pytest.mark.parametrize("limits", [(0, None, None), (None, -1, None), (None, None, 0.0)])
def test_a_limit_that_is_not_positive_is_refused(limits: tuple[int | None, int | None, float | None]) -> None:
    with pytest.raises(ConfigInvalid, match="give a number above 0"):
        run_length(*limits, steps_per_epoch=8)
