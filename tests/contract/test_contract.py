"""What the service and the command line promise is what it was when `golden/` was recorded, byte for byte (`record.py` says how)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
NAMES = sorted(path.name for path in GOLDEN.iterdir())


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record the code as it is."""
    folder = tmp_path_factory.mktemp("contract") / "recorded"
    done = subprocess.run([sys.executable, str(HERE / "record.py"), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_what_is_promised_has_not_changed(recorded: Path, name: str) -> None:
    found, promised = ((folder / name).read_text(encoding="utf-8") for folder in (recorded, GOLDEN))
    assert found.splitlines() == promised.splitlines()
    assert found == promised


def test_all_that_is_recorded_is_compared(recorded: Path) -> None:
    assert sorted(path.name for path in recorded.iterdir()) == NAMES
