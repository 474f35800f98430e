"""The run that all faults befall, the seed of what is drawn, and the figures that the report ends with."""

from __future__ import annotations

import os
import random
from pathlib import Path

from runs import KEYS

STEPS = 24
# Cut points are drawn from this seed; set DINODEX_FAULTS_SEED to repeat a run of the suite.
SEED = int(os.environ.get("DINODEX_FAULTS_SEED") or random.SystemRandom().randrange(2**32))
FIGURES: list[str] = []


def command(data: Path, out: Path, *more: str) -> list[str]:
    return ["train", str(data), "--out", str(out), *KEYS, f"max_steps={STEPS}", *more]
