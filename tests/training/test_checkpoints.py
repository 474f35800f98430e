from __future__ import annotations

import logging
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from backbone.errors import PathMissing, StorageFailed
from training.checkpoints import (
    Checkpoint,
    checkpoint_files,
    checkpoint_path,
    is_checkpoint,
    newest_valid,
    read_checkpoint,
    write_checkpoint,
)
from training.errors import CheckpointInvalid


@pytest.fixture
def checkpoint() -> Checkpoint:
    return Checkpoint(
        step=7,
        elapsed_s=1.5,
        skipped=0,
        processes=1,
        config={"recipe": "dino", "mask_ratio": [0.1, 0.5]},
        architecture={"name": "resnet", "params": {"depth": 18}},
        method={"centre": torch.arange(5.0)},
        optimizer={"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        scaler={},
        watch={"tally": [{"steps": [torch.zeros(7)], "images": 16}]},
        lineage="random initialisation",
        images=20,
        data_fingerprint="ab",
        scores={"knn": 0.5},
    )


def test_what_is_written_is_read_back(tmp_path: Path, checkpoint: Checkpoint) -> None:
    read = read_checkpoint(write_checkpoint(tmp_path / "new", checkpoint, keep=3))
    assert torch.equal(read.method["centre"], checkpoint.method["centre"])
    assert read.optimizer["param_groups"] == checkpoint.optimizer["param_groups"]
    assert replace(read, method={}, optimizer={}, watch={}) == replace(checkpoint, method={}, optimizer={}, watch={})


def test_only_the_newest_few_are_kept_and_steps_sort_as_numbers(tmp_path: Path, checkpoint: Checkpoint) -> None:
    for step in (5, 40, 300, 2000):
        write_checkpoint(tmp_path, replace(checkpoint, step=step), keep=2)
    assert checkpoint_files(tmp_path) == [checkpoint_path(tmp_path, 2000), checkpoint_path(tmp_path, 300)]
    assert newest_valid(tmp_path).step == 2000


@pytest.mark.parametrize("position", [0.0, 0.3, 0.6, 0.999])
def test_a_flipped_byte_anywhere_is_recognised(tmp_path: Path, checkpoint: Checkpoint, position: float) -> None:
    path = write_checkpoint(tmp_path, checkpoint, keep=3)
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointInvalid):
        read_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.999])
def test_a_torn_file_is_passed_over_for_the_one_before(
    tmp_path: Path, checkpoint: Checkpoint, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoint(tmp_path, checkpoint, keep=3)
    newest = write_checkpoint(tmp_path, replace(checkpoint, step=8), keep=3)
    newest.write_bytes(newest.read_bytes()[: int(share * newest.stat().st_size)])
    with caplog.at_level(logging.WARNING):
        assert newest_valid(tmp_path).step == 7
    assert newest.name in caplog.text


def test_a_folder_without_a_valid_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match="holds no valid checkpoint"):
        newest_valid(tmp_path)


def test_a_missing_file_is_missing_and_not_invalid(tmp_path: Path) -> None:
    with pytest.raises(PathMissing):
        read_checkpoint(tmp_path / "absent.ckpt")


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("exploded"),))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["pickle", "torch", "text"])
def test_a_file_of_another_program_is_refused_and_never_run(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "foreign.ckpt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    elif kind == "torch":
        torch.save({"state_dict": {}}, path)
    else:
        path.write_text("hello")
    assert not is_checkpoint(path)
    with pytest.raises(CheckpointInvalid, match="not a checkpoint of dinodex"):
        read_checkpoint(path)
    assert not (tmp_path / "exploded").exists()


def test_a_hostile_body_under_a_good_header_is_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    monkeypatch.chdir(tmp_path)
    torch.save({"step": Bomb()}, tmp_path / "body")
    body = (tmp_path / "body").read_bytes()
    path = tmp_path / "hostile.ckpt"
    path.write_bytes(f"dinodex-checkpoint 2 {hashlib.sha256(body).hexdigest()}\n".encode() + body)
    with pytest.raises(CheckpointInvalid, match="does not hold what a checkpoint holds"):
        read_checkpoint(path)
    assert not (tmp_path / "exploded").exists()


def test_a_later_format_names_itself(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = write_checkpoint(tmp_path, checkpoint, keep=3)
    path.write_bytes(path.read_bytes().replace(b"dinodex-checkpoint 2 ", b"dinodex-checkpoint 3 ", 1))
    with pytest.raises(CheckpointInvalid, match="has format 3"):
        read_checkpoint(path)


def test_a_failed_write_leaves_the_earlier_checkpoints(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path, checkpoint, keep=1)

    def full(path: Path, *parts: bytes, verify: bool) -> None:
        raise StorageFailed("no space left")

    monkeypatch.setattr("training.checkpoints.write_file", full)
    with pytest.raises(StorageFailed):
        write_checkpoint(tmp_path, replace(checkpoint, step=8), keep=1)
    assert newest_valid(tmp_path).step == 7
