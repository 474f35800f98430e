"""S46, S47 and S48 at every place: full disks, calls that fail, files cut off and changed."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from faults.figures import FIGURES, SEED
from faults.library.damage import judge_many
from faults.library.disks import Injected, fail_calls, fill_up, mounted, needs_strace

FLIPS = 1_500  # of each of two libraries
FILLED = 300


def test_s48_a_library_damaged_anywhere_never_gives_a_wrong_answer(tmp_path: Path) -> None:
    verdicts = judge_many(tmp_path, cut_share=1.0, flips=FLIPS, seed=SEED)
    FIGURES.append(f"S48 {verdicts}")
    assert verdicts.wrong == []


def test_s46_a_full_disk_refuses_puts_and_loses_nothing(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=16m") as disk:
        FIGURES.append(f"S46 {fill_up(disk, FILLED, SEED)}")


@needs_strace
@pytest.mark.parametrize(
    ("call", "error"), [("fsync,fdatasync", "EIO"), ("pwrite64", "EIO"), ("pwrite64", "ENOSPC"), ("ftruncate", "EIO")]
)
def test_s47_a_call_that_fails_refuses_what_hangs_on_it_and_a_restart_finds_all_that_was_acknowledged(
    tmp_path: Path, call: str, error: str
) -> None:
    found = Injected()
    for number in count(1):
        if not fail_calls(tmp_path, call, error, [number], writes=12, found=found):
            break
    FIGURES.append(f"S47 {found}")
