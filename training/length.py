"""How long a run is, and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass

from training.errors import ConfigInvalid

DEFAULT_EPOCHS = 100  # DINO's and DINOv2's own short recipes (arXiv:2104.14294, table 8; arXiv:2304.07193, table 16)


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
