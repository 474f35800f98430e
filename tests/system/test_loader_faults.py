"""Whatever fails in a loader, its threads or its processes ends the run with one sentence, and SIGTERM always ends it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from runs import KEYS, exit_code, newest_step, rows, run, session, started, wait_until

IO, TERMINATED = 74, 143
# What the server of the test's processes knows of the temporary directory; a command begins without.
FRESH = """
import multiprocessing, tempfile
tempfile.tempdir = None
multiprocessing.current_process()._config.pop("tempdir", None)
"""
HANGING = """
import time
from training.images import TrainingImages
from training.processes.stopping import StopSignals
StopSignals.__init__.__defaults__ = (0.5,)
get = TrainingImages.__getitem__
TrainingImages.__getitem__ = lambda self, key: get(self, key) if key[0] < {epochs} else time.sleep(1000)
"""
FAILS = {
    "the socket of a thread": (
        "import training.processes.temporary; training.processes.temporary.LONGEST = 10_000",
        "could not hand them over, OSError: AF_UNIX path too long",
    ),
    "the thread that sends": (
        "import torch.multiprocessing.reductions as r\n"
        "def fail(*_): raise OSError(28, 'No space left on device')\n"
        "import torch; r.init_reductions(); from multiprocessing.reduction import ForkingPickler\n"
        "ForkingPickler.register(torch.Tensor, fail)",
        "could not hand them over, OSError: [Errno 28] No space left on device",
    ),
    "a mistake in the views": (
        "from training.views import MultiCrop\ndef fail(*_): raise ZeroDivisionError('by zero')\nMultiCrop.__call__ = fail",
        "loading an image failed, ZeroDivisionError: by zero",
    ),
    "memory": (
        "from training.views import MultiCrop\ndef fail(*_): raise MemoryError\nMultiCrop.__call__ = fail",
        "loading an image failed, MemoryError",
    ),
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def command(digits: Path, out: Path, *more: str) -> list[str]:
    return ["train", str(digits), "--out", str(out), *KEYS, "max_steps=100000", "workers=2", *more]


def long_directory(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / ("x" * 100)
    folder.mkdir(exist_ok=True)
    return {"TMPDIR": str(folder)}


def last_change_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def test_u12_a_run_with_loaders_goes_well_under_a_long_temporary_directory(
    digits: Path, tmp_path: Path, log: Path
) -> None:
    with started(command(digits, tmp_path / "run", "max_steps=2"), log, long_directory(tmp_path), FRESH) as process:
        assert exit_code(process) == 0, log.read_text()
    said = log.read_text()
    assert "is too long for a socket; using /" in said
    assert "Traceback" not in said
    assert not Path(said.partition("using ")[2].partition(" instead")[0]).exists()


@pytest.mark.parametrize("what", FAILS)
def test_u12_what_fails_in_a_loader_is_one_sentence(digits: Path, tmp_path: Path, log: Path, what: str) -> None:
    before, says = FAILS[what]
    with started(command(digits, tmp_path / "run"), log, long_directory(tmp_path), FRESH + before) as process:
        assert exit_code(process, timeout_s=90) == IO, log.read_text()
        assert process.pid
        wait_until(lambda: not session(process.pid), timeout_s=10)
    said = log.read_text()
    assert says in said.splitlines()[-1]
    assert said.splitlines()[-1].startswith("dinodex: ")
    assert "Traceback" not in said


@pytest.mark.parametrize("epochs", [0, 1])
def test_u12_sigterm_ends_a_run_whose_images_do_not_come_and_keeps_its_steps(
    digits: Path, tmp_path: Path, log: Path, epochs: int
) -> None:
    """From the first image on, or from the second epoch on."""
    out = tmp_path / "run"
    arguments = command(digits, out, "checkpoint_every_s=1000")
    with started(arguments, log, before=HANGING.format(epochs=epochs)) as process:
        assert process.pid
        wait_until(lambda: len(session(process.pid)) == 3, process)
        if epochs:  # the row of its last step has come when no other has for a while
            wait_until(lambda: len(rows(out)) > 2 and last_change_s(out / "metrics.csv") > 1, process)
        os.kill(process.pid, signal.SIGTERM)
        assert exit_code(process, timeout_s=60) == TERMINATED, log.read_text()
        wait_until(lambda: not session(process.pid), timeout_s=10)
    said = log.read_text()
    assert "go on with --resume" in said.splitlines()[-1]
    assert "Traceback" not in said
    if epochs:
        assert newest_step(out) > 0
        assert run(["export", str(out), "--out", str(tmp_path / "artifact"), "--no-onnx"], log) == 0
