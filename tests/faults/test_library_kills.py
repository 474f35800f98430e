"""S44 and S48 a thousand times: SIGKILL at random moments, and the power going after any system call."""

from __future__ import annotations

from pathlib import Path

from faults.figures import FIGURES, SEED
from faults.library.disks import needs_strace
from faults.library.kills import kill_many
from faults.library.power import lose_power

KILLS = 1_000
WRITES = 60


def test_s44_writers_killed_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    FIGURES.append(f"S44 {kill_many(tmp_path / 'data', KILLS, SEED)}")


@needs_strace
def test_s48_whatever_was_not_flushed_when_the_power_went_every_acknowledged_write_is_there(tmp_path: Path) -> None:
    FIGURES.append(f"S48 {lose_power(tmp_path, WRITES, SEED)}")
