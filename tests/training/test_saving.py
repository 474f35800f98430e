"""A save is whole or absent, wherever it is cut and whatever the disk refuses."""

from __future__ import annotations

import errno
import io
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from runs import run_program

from backbone import load_artifact
from backbone.durable import remove_leftovers
from backbone.errors import StorageFailed
from training.checkpoints import Checkpoint, checkpoint_files, newest_valid, read_checkpoint, write_checkpoint
from training.config import TrainingConfig
from training.progress import Reporter
from training.run import train
from training.saving import MAX_FAILED_SAVES, Saver


@pytest.fixture
def checkpoint() -> Checkpoint:
    empty: dict[str, object] = {}
    return Checkpoint(7, 1.5, 0, 1, empty, empty, {"centre": torch.arange(5.0)}, empty, empty, empty, "", 20, "ab", {})


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# Kills itself before the N-th line of the named modules that it comes to: between any two steps of a save.
KILLED_AT_LINE = """
import os, signal, sys
from pathlib import Path

left, files = {line}, {files}

def trace(frame, event, argument):
    if not frame.f_code.co_filename.endswith(files):
        return None
    def at_line(frame, event, argument):
        global left
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return at_line
    return at_line

{prepare}
sys.settrace(trace)
{act}
sys.settrace(None)
"""
KILLED, ENDED = -9, 0


def kill_at_every_line(files: tuple[str, ...], prepare: str, act: str, check: Callable[[bool], None]) -> int:
    """Do `act` until it is killed at its first line, its second and so on; `check(ended)` after each. Return the number of lines."""
    for line in range(1, 1000):
        code = run_program(KILLED_AT_LINE.format(line=line, files=files, prepare=prepare, act=act))
        assert code in (KILLED, ENDED)
        check(code == ENDED)
        if code == ENDED:
            return line - 1
    raise AssertionError("it never ended")


def test_t02_a_save_killed_at_any_line_leaves_a_valid_checkpoint_and_nothing_that_stays(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    folder = tmp_path / "checkpoints"
    for step in (6, 7):
        write_checkpoint(folder, replace(checkpoint, step=step), keep=2)
    found: list[int] = []

    def check(ended: bool) -> None:
        found.append(newest_valid(folder).step)
        assert len(checkpoint_files(folder)) >= 2
        for path in checkpoint_files(folder):
            read_checkpoint(path)  # none is torn
        remove_leftovers(folder)
        assert hidden(folder) == []
        if ended:
            assert [path.name for path in checkpoint_files(folder)] == ["step-00000008.ckpt", "step-00000007.ckpt"]
        elif found[-1] == 8:  # back to the beginning
            (folder / "step-00000008.ckpt").unlink()
            write_checkpoint(folder, replace(checkpoint, step=6), keep=2)
            write_checkpoint(folder, checkpoint, keep=2)

    prepare = (
        "from dataclasses import replace; from training.checkpoints import newest_valid, write_checkpoint\n"
        f"folder = Path({str(folder)!r}); checkpoint = replace(newest_valid(folder), step=8)"
    )
    act = "write_checkpoint(folder, checkpoint, keep=2)"
    lines = kill_at_every_line(("backbone/durable.py", "training/checkpoints.py"), prepare, act, check)
    assert lines > 30
    assert found == sorted(found), "published once, at one moment"
    assert set(found) == {7, 8}


def test_t18_an_export_killed_at_any_line_leaves_a_whole_artifact_or_none(tmp_path: Path) -> None:
    out = tmp_path / "artifact"

    def check(ended: bool) -> None:
        if out.exists():
            load_artifact(out)
            shutil.rmtree(out)
        else:
            assert not ended
        remove_leftovers(tmp_path)
        assert list(tmp_path.iterdir()) == []

    prepare = (
        (
            "from backbone import Architecture, Preprocess, build; from backbone.artifact_writer import write_artifact\n"
            "params = {{'image_size': 8, 'patch_size': 4, 'dim': 8, 'depth': 1, 'heads': 1, 'pos_embed_resize': 'exact'}}\n"
            "model = build(Architecture('vit', params))"
        )
        .replace("{{", "{")
        .replace("}}", "}")
    )
    act = (
        f"write_artifact(Path({str(out)!r}), model, Preprocess.for_image_size(8), licence='MIT', lineage='none', training={{}}, "
        "onnx=False)"
    )
    assert kill_at_every_line(("backbone/durable.py",), prepare, act, check) > 40


@pytest.mark.parametrize("number", [1, 2])
def test_t04_a_checkpoint_whose_flush_fails_is_not_published(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The first flush is of the bytes, the second of the name."""
    write_checkpoint(tmp_path, checkpoint, keep=1)
    flush, calls = os.fsync, [0]

    def failing(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] == number:
            raise OSError(errno.EIO, "Input/output error")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageFailed, match="Input/output error"):
        write_checkpoint(tmp_path, replace(checkpoint, step=8), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007.ckpt"]
    assert newest_valid(tmp_path).step == 7
    write_checkpoint(tmp_path, replace(checkpoint, step=9), keep=1)
    assert newest_valid(tmp_path).step == 9


def test_t04_bytes_that_come_back_changed_are_not_published(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path, checkpoint, keep=1)
    flush = os.fsync

    def lying(descriptor: int) -> None:
        flush(descriptor)
        with next(tmp_path.glob(".*.tmp")).open("r+b") as file:
            file.seek(200)
            file.write(b"x")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lying)
        with pytest.raises(StorageFailed, match="gave other bytes back"):
            write_checkpoint(tmp_path, replace(checkpoint, step=8), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007.ckpt"]


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A disk that is full as long as the one element says so."""
    state, write = [False], write_checkpoint

    def maybe(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
        if state[0]:
            raise StorageFailed("no space left on device")
        return write(folder, checkpoint, keep)

    monkeypatch.setattr("training.saving.write_checkpoint", maybe)
    return state


def test_t03_two_failed_saves_in_a_row_are_borne_and_the_third_is_not(
    tmp_path: Path, checkpoint: Checkpoint, full: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    saver = Saver(tmp_path, every_s=1.0, keep=3)
    saver.save(checkpoint, must=False)
    for _ in range(2):  # a save that works gives the patience back
        full[0] = True
        with caplog.at_level(logging.WARNING):
            for _ in range(MAX_FAILED_SAVES - 1):
                saver.save(checkpoint, must=False)
        full[0] = False
        saver.save(checkpoint, must=False)
    assert caplog.text.count("no checkpoint at step 7, the run goes on: no space left") == 4
    full[0] = True
    for _ in range(MAX_FAILED_SAVES - 1):
        saver.save(checkpoint, must=False)
    with pytest.raises(StorageFailed):
        saver.save(checkpoint, must=False)
    assert newest_valid(tmp_path / "checkpoints").step == 7


def test_t03_the_last_save_of_a_run_must_succeed(tmp_path: Path, checkpoint: Checkpoint, full: list[bool]) -> None:
    full[0] = True
    with pytest.raises(StorageFailed):
        Saver(tmp_path, every_s=1.0, keep=3).save(checkpoint, must=True)


def test_t03_a_run_bears_a_full_disk_and_its_numbers_are_the_same(
    digits: Path, tmp_path: Path, tiny_config: Callable[..., TrainingConfig], full: list[bool]
) -> None:
    quiet = Reporter(Console(file=io.StringIO()))
    config = tiny_config(max_steps=3, batch_size=4, local_views=0, checkpoint_every_s=0)
    whole = train(digits, tmp_path / "whole", config, quiet)
    full[0] = True
    with pytest.raises(StorageFailed):
        train(digits, tmp_path / "full", config, quiet)
    assert not (tmp_path / "full" / "checkpoints").exists()
    full[0] = False
    assert newest_valid(whole.run / "checkpoints").step == 3


def test_a_save_is_due_after_its_time_and_not_before(tmp_path: Path) -> None:
    saver = Saver(tmp_path, every_s=10.0, keep=3)
    saver.begin(100.0)
    assert not saver.is_due(109.9)
    assert saver.is_due(110.0)
    saver.begin(110.0)
    assert not saver.is_due(119.9)
