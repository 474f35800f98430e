"""What a shell can give a command as the name of a file: pipes with and without a reader, and names that are none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import encoded, picture

from backbone import Artifact
from dinodex.exits import IO

DINODEX = [sys.executable, "-m", "dinodex"]
ENVIRONMENT = {"DINODEX_RUNTIME": "torch", "DINODEX_THREADS": "1", "DINODEX_DECODE_WORKERS": "1"}


@pytest.fixture
def into(tmp_path: Path, tiny_artifact: Artifact) -> list[str]:
    """Make a folder with a good and a broken image, and return the arguments that index it."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "good.png").write_bytes(encoded(picture()))
    (tmp_path / "images" / "broken.jpg").write_bytes(b"no image")
    options = ["--collection", "c", "--artifact", str(tiny_artifact.path), "--data", str(tmp_path / "data")]
    return ["index", str(tmp_path / "images"), *options, "--report"]


def test_u10_a_report_to_standard_output_comes_before_the_figures(into: list[str]) -> None:
    done = subprocess.run(
        [*DINODEX, *into, "/dev/stdout"],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    report, figures = done.stdout.splitlines()
    assert '"id": "broken.jpg"' in report
    assert figures.startswith("1 created, 0 replaced, 0 unchanged, 1 refused")


def test_u10_sigterm_ends_a_command_that_waits_for_the_reader_of_its_report(into: list[str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    program = f"import sys; sys.argv[1:] = {[*into, str(tmp_path / 'pipe')]!r}\n"
    program += "from dinodex.cli import main\nfrom backbone import output\n"
    program += "output.time.sleep = lambda s, sleep=output.time.sleep: print('waits', flush=True) or sleep(s)\nmain()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == b"waits\n"
        waiting.terminate()
        assert waiting.wait(10) in (-signal.SIGTERM, 143)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("report", ["", "missing/report", "images/good.png/report"])
def test_u10_a_report_that_cannot_be_written_is_refused_before_the_work(
    into: list[str], tmp_path: Path, report: str
) -> None:
    done = subprocess.run([*DINODEX, *into, str(tmp_path / report)], capture_output=True, text=True, check=False)
    assert done.returncode == IO
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()
