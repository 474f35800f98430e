from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightly.utils.scheduler import CosineWarmupScheduler, cosine_schedule, linear_warmup_schedule

from training.errors import ConfigInvalid
from training.schedules import DEFAULT_EPOCHS, Cosine, Length, Ramp, run_length

PROGRESS = st.floats(0.0, 1.0)


# LightlySSL counts steps 0 to N - 1 and gives a schedule its end value in the last of them: step i lies at i / (N - 1). Here, as in
# the papers' code, step i of N lies at i / N, and the end value belongs to the moment after the last step. So LightlySSL's schedule
# of N + 1 steps passes through the values of ours of N steps.
STEPS = [1, 2, 37, 200]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("start", "end"), [(0.996, 1.0), (0.04, 0.4), (4e-3, 1e-6)])
def test_a_cosine_is_lightlys_and_the_formula_of_the_papers_at_every_step(steps: int, start: float, end: float) -> None:
    schedule = Cosine(start, end)
    for step in range(steps + 1):
        paper = end + (start - end) * (1.0 + np.cos(np.pi * step / steps)) / 2
        assert schedule(step / steps) == pytest.approx(paper, rel=1e-10)
        assert schedule(step / steps) == pytest.approx(cosine_schedule(step, steps + 1, start, end), rel=1e-10)


@pytest.mark.parametrize(("steps", "warmup"), [(37, 5), (200, 20), (200, 1), (50, 49)])
def test_a_learning_rate_is_what_lightlys_scheduler_sets_at_every_step(steps: int, warmup: int) -> None:
    """LightlySSL's warm-up leaves 0 out, to take no step at rate 0, and so is one step ahead; ours starts at 0, as the papers' do."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = CosineWarmupScheduler(optimizer, warmup, steps + 1, start_value=4e-3, end_value=1e-6)
    theirs = []
    for _ in range(steps + 1):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    schedule = Cosine(4e-3, 1e-6, warmup / steps)
    assert schedule(0.0) == 0.0
    for step in range(1, warmup):
        assert schedule(step / steps) == pytest.approx(theirs[step - 1], rel=1e-10)
    for step in range(warmup, steps + 1):
        assert schedule(step / steps) == pytest.approx(theirs[step], rel=1e-10)


@pytest.mark.parametrize(("steps", "warmup"), [(100, 30), (50, 30), (100, 1)])
def test_the_teachers_temperature_is_lightlys_linear_warmup_at_every_step(steps: int, warmup: int) -> None:
    ramp = Ramp(0.04, 0.07, warmup / steps)
    for step in range(steps):
        assert ramp(step / steps) == pytest.approx(linear_warmup_schedule(step, warmup, 0.04, 0.07), rel=1e-10)
        paper = np.interp(step, [0, warmup], [0.04, 0.07])
        assert ramp(step / steps) == pytest.approx(float(paper), rel=1e-10)


@pytest.mark.parametrize("steps", [3, 50, 1000])
def test_the_teachers_warmup_ends_within_a_run_of_any_length(steps: int) -> None:
    """LightlySSL's example warms up for 30 epochs, whatever the length of the run: a shorter one never gets there."""
    values = [Ramp(0.04, 0.07, 0.3)(step / steps) for step in range(steps)]
    assert values[0] == 0.04
    assert values[-1] == 0.07
    assert sum(value < 0.07 for value in values) == math.ceil(0.3 * steps)


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
