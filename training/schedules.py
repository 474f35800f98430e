"""Schedules: how long a run is, and what changes over it, as functions of its progress from 0 to 1.

A run of N steps is at progress i / N in step i (counted from 0), one with a time limit at the share of the time that has passed,
whichever is further (`Length`): the same schedule fits both, and a run that stops has always reached its end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from training.config import ResolvedConfig
from training.errors import ConfigInvalid

DEFAULT_EPOCHS = 100  # DINO's and DINOv2's own short recipes (arXiv:2104.14294, table 8; arXiv:2304.07193, table 16)
LR_BATCH = 256  # images: the batch that `lr` is meant for


@dataclass(frozen=True)
class Length:
    """A run ends after `steps` steps or `time_s` seconds, whichever comes first; None is no limit, and one of them is given."""

    steps: int | None
    time_s: float | None = None

    def progress(self, step: int, elapsed_s: float) -> float:
        """Return how much of the run lies behind it when `step` steps and `elapsed_s` seconds have passed: 0 to 1."""
        by_steps = 0.0 if self.steps is None else step / self.steps
        by_time = 0.0 if self.time_s is None else elapsed_s / self.time_s
        return min(max(by_steps, by_time), 1.0)


def run_length(max_steps: int | None, max_epochs: int | None, max_time_s: float | None, steps_per_epoch: int) -> Length:
    """Turn the three limits into one; without any, the run has `DEFAULT_EPOCHS` epochs.

    Raises:
        ConfigInvalid: a limit that is not positive.
    """
    for name, value in (("max_steps", max_steps), ("max_epochs", max_epochs), ("max_time_s", max_time_s)):
        if value is not None and not value > 0:
            raise ConfigInvalid(f"{name} is {value}; give a number above 0, or leave it out.")
    if max_steps is None and max_epochs is None and max_time_s is None:
        max_epochs = DEFAULT_EPOCHS
    limits = [max_steps, None if max_epochs is None else max_epochs * steps_per_epoch]
    return Length(min((limit for limit in limits if limit is not None), default=None), max_time_s)


@dataclass(frozen=True)
class Cosine:
    """From `start` to `end` along half a cosine, after an optional linear warm-up from `warmup_start`.

    Loshchilov and Hutter 2017 (arXiv:1608.03983), equation 5, without restarts.
    """

    start: float
    end: float
    warmup: float = 0.0  # share of the run
    warmup_start: float = 0.0

    def __call__(self, progress: float) -> float:
        """Return the value at `progress`; outside [0, 1] the nearest end's."""
        progress = min(max(progress, 0.0), 1.0)
        if progress < self.warmup:
            return self.warmup_start + (self.start - self.warmup_start) * progress / self.warmup
        if self.warmup >= 1.0:
            return self.start
        along = (progress - self.warmup) / (1.0 - self.warmup)
        return self.end + (self.start - self.end) * (1.0 + math.cos(math.pi * along)) / 2.0


@dataclass(frozen=True)
class Ramp:
    """Linear from `start` to `end` over the first `share` of the run, then constant (arXiv:2104.14294, appendix D)."""

    start: float
    end: float
    share: float

    def __call__(self, progress: float) -> float:
        """Return the value at `progress`."""
        if progress >= self.share:
            return self.end
        return self.start + (self.end - self.start) * max(progress, 0.0) / self.share


class Knobs(NamedTuple):
    """The values of the schedules at one step."""

    lr: float
    weight_decay: float
    momentum: float
    teacher_temperature: float


@dataclass(frozen=True)
class Schedules:
    """The four schedules of a run."""

    lr: Cosine
    weight_decay: Cosine
    momentum: Cosine
    teacher_temperature: Ramp

    @classmethod
    def from_config(cls, config: ResolvedConfig) -> Schedules:
        """Build them from the keys of a run; the learning rate grows with the root of the batch (arXiv:2205.10287)."""
        c = config
        peak = c.lr * math.sqrt(c.batch_size / LR_BATCH)
        return cls(
            lr=Cosine(peak, min(c.lr_end, peak), warmup=c.warmup),
            weight_decay=Cosine(c.weight_decay, c.weight_decay_end),
            momentum=Cosine(c.momentum, c.momentum_end),
            teacher_temperature=Ramp(c.teacher_temperature_start, c.teacher_temperature, c.teacher_temperature_warmup),
        )

    def at(self, progress: float) -> Knobs:
        """Return the values at `progress`."""
        return Knobs(
            self.lr(progress), self.weight_decay(progress), self.momentum(progress), self.teacher_temperature(progress)
        )
