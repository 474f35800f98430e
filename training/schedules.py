"""What changes over a run, as functions of its progress from 0 to 1.

A run of N steps is at progress i / N in step i (counted from 0), one with a time limit at the share of the time that has passed,
whichever is further (`length.py`): the same schedule fits both, and a run that stops has always reached its end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


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
