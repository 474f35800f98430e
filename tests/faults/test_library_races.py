"""S50 for a minute, and 200,000 random operations against a dictionary."""

from __future__ import annotations

from pathlib import Path

from faults.figures import FIGURES, SEED
from faults.library.operations import operate
from faults.library.races import race

OPERATIONS = 200_000
SECONDS = 60
LEAST_RECALL = 0.99  # what the library promises of searches that need not be exact


def test_s50_searches_beside_writes_see_one_snapshot_after_the_other(tmp_path: Path) -> None:
    FIGURES.append(f"S50 {race(tmp_path / 'data', SECONDS)}")


def test_a_library_agrees_with_a_dictionary_after_each_of_200_000_operations(tmp_path: Path) -> None:
    operated = operate(tmp_path / "data", OPERATIONS, SEED)
    FIGURES.append(f"oracle {operated}")
    assert operated.recall >= LEAST_RECALL
