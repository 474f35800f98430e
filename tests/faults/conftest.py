"""Digits to train on, a run that nothing happened to, and the figures in the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.figures import FIGURES, SEED, command
from runs import run, run_ranks


@pytest.fixture(scope="session")
def whole(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(command(digits, folder / "run"), folder / "log") == 0, (folder / "log").read_text()
    return folder / "run"


@pytest.fixture(scope="session")
def whole_of_two(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole-of-two")
    assert run_ranks(command(digits, folder / "run"), folder / "log") == [0, 0], (folder / "log").read_text()
    return folder / "run"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in [f"seed {SEED}", *FIGURES]:
        terminalreporter.write_line(line)
