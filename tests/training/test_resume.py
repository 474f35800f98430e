"""A run that goes on is the run that was never stopped, bit by bit, or it says why it cannot be."""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from runs import assert_equal_runs, rows
from torch import Tensor

from backbone.architecture import named
from backbone.decode import DecodeLimits
from backbone.errors import OutputNotEmpty, PathMissing
from backbone.listing import list_images
from backbone.preprocess import Preprocess
from training.checkpoints import Checkpoint, checkpoint_path, newest_valid, read_checkpoint, write_checkpoint
from training.config import TrainingConfig, section
from training.errors import CheckpointInvalid, ConfigInvalid, DataChanged, DataTooSmall, TooManyCorrupt
from training.probe import Probe, split_images
from training.progress import Reporter
from training.recipes import resolve
from training.resume import FREE, Resume, check_processes, continued, saved_config
from training.run import TrainingResult, train
from training.two_views import TwoViewProbe
from training.views import ViewConfig

Tiny = Callable[..., TrainingConfig]
STEPS = 5
# A checkpoint after every step, and rows that lie across the cuts.
EVERY_STEP = {"max_steps": STEPS, "batch_size": 4, "local_views": 1, "checkpoint_every_s": 0, "keep_checkpoints": 99}


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def reporter(screen: io.StringIO) -> Reporter:
    return Reporter(Console(file=screen, width=1000))


@pytest.fixture
def few(digits: Path, tmp_path: Path) -> Path:
    """120 of the digits in class folders, that a test may damage."""
    folder = tmp_path / "few"
    for path in sorted(digits.rglob("*.png"))[::5][:60] + sorted(digits.rglob("*.png"))[1::5][:60]:
        target = folder / path.relative_to(digits)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return folder


def go_on(data: Path, out: Path, reporter: Reporter, **given: object) -> TrainingResult:
    """Resume as the command line does, with some keys given again."""
    return train(data, out, TrainingConfig.from_values(given), reporter, Resume(given))


def cut_after(reference: Path, step: int, out: Path) -> Path:
    """Copy a finished run as it was when it was killed some time after it saved this step."""
    shutil.copytree(reference, out, ignore=shutil.ignore_patterns("checkpoints", "artifact", "tensorboard"))
    (out / "checkpoints").mkdir()
    shutil.copy(checkpoint_path(reference / "checkpoints", step), checkpoint_path(out / "checkpoints", step))
    return out


def assert_equal_state(mine: object, other: object, place: str = "") -> None:
    """Compare what two checkpoints hold, tensor by tensor, bit by bit."""
    assert type(mine) is type(other), place
    if isinstance(mine, Tensor):
        assert torch.equal(mine, other), place
    elif isinstance(mine, dict):
        assert mine.keys() == other.keys(), place
        for key in mine:
            assert_equal_state(mine[key], other[key], f"{place}.{key}")
    elif isinstance(mine, list):
        assert len(mine) == len(other), place
        for number, pair in enumerate(zip(mine, other, strict=True)):
            assert_equal_state(*pair, f"{place}[{number}]")
    else:
        assert mine == other, place


CASES = {
    "dino with softmax centring": {"centring": "softmax", "drop_path": 0.3},
    "dinov2": {"recipe": "dinov2", "drop_path": 0.3},
    "a resnet with batch normalisation": {
        "backbone": "resnet18",
        "depth": None,
        "image_size": 32,
        "local_size": 16,
        "max_steps": 2,
    },
    "a batch in two parts in bfloat16": {"recipe": "dinov2", "accumulate": 2, "precision": "bf16"},
    "float16": {"precision": "16"},
    "another number of workers": {"workers": 1, "max_steps": 3},
}


@pytest.mark.parametrize("keys", CASES.values(), ids=CASES.keys())
def test_t01_a_run_cut_after_any_step_goes_on_to_the_same_bits(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter, keys: dict[str, Any]
) -> None:
    config = tiny_config(**{**EVERY_STEP, **keys})
    assert config.max_steps
    reference = train(digits, tmp_path / "whole", config, reporter)
    last = newest_valid(reference.run / "checkpoints")
    for step in range(1, config.max_steps):
        out = cut_after(reference.run, step, tmp_path / f"cut-{step}")
        result = go_on(digits, out, reporter, workers=0)
        assert result.steps == config.max_steps
        assert_equal_runs(out, reference.run)
        resumed = newest_valid(out / "checkpoints")
        assert_equal_state([resumed.method, resumed.optimizer], [last.method, last.optimizer])
        assert_equal_state(resumed.scaler, last.scaler)


def test_t01_a_score_gives_each_layer_its_own_mode_back(
    digits: Path, tiny_config: Tiny, make_method: Callable[..., Any]
) -> None:
    """A run that scores and one that goes on without a score must not differ: a teacher's batch normalisation trains alone."""
    method = make_method("dino", named("resnet18", 16))
    modes = {name: layer.training for name, layer in method.named_modules()}
    images = list_images(digits).images
    split = split_images(images, 0.1, 20, seed=0)
    Probe(split, Preprocess.for_image_size(16), DecodeLimits()).score(method.teacher.backbone)
    views = section(resolve(tiny_config(), 300, named("vit_tiny_patch4", 8)).config, ViewConfig)
    TwoViewProbe(images[:4], views, 0, DecodeLimits()).score(method.teacher.backbone)
    assert {name: layer.training for name, layer in method.named_modules()} == modes
    assert len({modes[name] for name in modes if name.startswith("teacher")}) == 2


def test_t01_a_run_that_had_saved_nothing_begins_again(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter, screen: io.StringIO
) -> None:
    config = tiny_config(**EVERY_STEP)
    reference = train(digits, tmp_path / "whole", config, reporter)
    out = tmp_path / "cut"
    shutil.copytree(reference.run, out, ignore=shutil.ignore_patterns("checkpoints", "artifact"))
    go_on(digits, out, reporter)
    assert "had not saved a checkpoint yet; beginning again" in screen.getvalue()
    assert_equal_runs(out, reference.run)


@pytest.mark.parametrize("left", [[], ["images.tsv.gz"], [".images.tsv.gz.0123456789ab.tmp"]])
def test_t02_a_run_killed_before_its_keys_were_written_begins_by_resume(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter, left: list[str]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in left:
        (out / name).write_bytes(b"torn")
    config = tiny_config(**EVERY_STEP, recipe="dinov2")
    result = train(digits, out, config, reporter, Resume({"recipe": "dinov2"}))
    assert result.steps == STEPS
    assert TrainingConfig.load(out / "config.toml").recipe == "dinov2"
    assert not list(out.glob("*.tmp"))
    assert not list(out.glob(".*.tmp"))


def test_t18_a_finished_run_is_left_as_it_is_and_a_missing_artifact_is_made(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter
) -> None:
    reference = train(digits, tmp_path / "run", tiny_config(**EVERY_STEP), reporter)
    metrics, written = rows(reference.run), (reference.artifact / "manifest.json").read_bytes()
    assert go_on(digits, reference.run, reporter).steps == STEPS
    assert rows(reference.run) == metrics
    assert (reference.artifact / "manifest.json").read_bytes() == written
    shutil.rmtree(reference.artifact)
    (reference.run / ".artifact.0123456789ab.tmp").mkdir()
    (reference.run / ".artifact.0123456789ab.tmp" / "weights.safetensors").write_bytes(b"torn")
    go_on(digits, reference.run, reporter)
    assert (reference.artifact / "manifest.json").read_bytes() == written
    assert not list(reference.run.glob(".*.tmp"))


# T09


def damage(folder: Path, count: int) -> list[Path]:
    """Make some images unusable, each in another way."""
    ways: list[Callable[[Path], object]] = [
        lambda path: path.write_bytes(path.read_bytes()[:40]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"%PDF-1.7"),
    ]
    chosen = sorted(folder.rglob("*.png"))[:: max(len(list(folder.rglob("*.png"))) // count, 1)][:count]
    for number, path in enumerate(chosen):
        ways[number % len(ways)](path)
    return chosen


def test_t09_a_run_with_a_corrupt_image_goes_on_exactly_from_any_step(
    few: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter, caplog: pytest.LogCaptureFixture
) -> None:
    [bad] = damage(few, 1)
    keys = {**EVERY_STEP, "batch_size": 40, "max_steps": 4, "local_views": 0, "log_every": 3, "held_out": 0}
    reference = train(few, tmp_path / "whole", tiny_config(**keys), reporter)
    assert rows(reference.run)[-1]["corrupt"] == "1"
    assert sum(bad.name in record.getMessage() for record in caplog.records) == 1
    for step in range(1, 4):
        out = cut_after(reference.run, step, tmp_path / f"cut-{step}")
        caplog.clear()
        go_on(few, out, reporter)
        assert_equal_runs(out, reference.run)
        known = (
            bad.relative_to(few).as_posix() in read_checkpoint(checkpoint_path(out / "checkpoints", 4)).watch["refused"]
        )
        assert known


def test_t09_too_many_corrupt_images_that_a_stop_hid_stop_the_run_that_goes_on(
    few: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(few, 2)  # of 120
    keys = {**EVERY_STEP, "batch_size": 60, "local_views": 0, "log_every": 4, "held_out": 0}
    with pytest.raises(TooManyCorrupt, match="2 of 120"):
        train(few, tmp_path / "run", tiny_config(**keys), reporter)
    # Both were met in the first epoch, two steps before the row that counts them.
    for name in ("step-00000001.ckpt", "step-00000003.ckpt"):
        assert (tmp_path / "run" / "checkpoints" / name).exists()
    with pytest.raises(TooManyCorrupt, match="2 of 120"):
        go_on(few, tmp_path / "run", reporter)


# T10


def change(folder: Path, how: str) -> str:
    first, second, *_ = sorted(folder.rglob("*.png"))
    if how == "gone":
        first.unlink()
        return f"1 gone: {first.relative_to(folder).as_posix()}"
    if how == "new":
        (first.parent / "another.png").write_bytes(second.read_bytes())
        return f"1 new: {(first.parent / 'another.png').relative_to(folder).as_posix()}"
    first.write_bytes(second.read_bytes() + b" ")
    return f"1 changed: {first.relative_to(folder).as_posix()}"


@pytest.mark.parametrize("how", ["gone", "new", "changed"])
def test_t10_changed_images_are_refused_with_their_names_unless_they_are_accepted(
    few: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter, how: str
) -> None:
    reference = train(few, tmp_path / "whole", tiny_config(**EVERY_STEP), reporter)
    out = cut_after(reference.run, 3, tmp_path / "cut")
    line = change(few, how)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    for _ in range(2):  # a refusal changes nothing
        with pytest.raises(DataChanged) as refusal:
            go_on(few, out, reporter)
        assert line in str(refusal.value)
        assert "--accept-data" in str(refusal.value)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    result = train(few, out, TrainingConfig(), reporter, Resume(accept_data=True))
    assert result.steps == STEPS
    cut = cut_after(result.run, STEPS, tmp_path / "later")
    go_on(few, cut, reporter)  # what was accepted is the set from then on


def test_t10_all_kinds_of_change_are_listed_at_once(
    few: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter
) -> None:
    reference = train(few, tmp_path / "whole", tiny_config(**EVERY_STEP), reporter)
    new, changed, gone = change(few, "new"), change(few, "changed"), change(few, "gone")
    del changed  # the first file is both changed and gone: it is gone
    os.utime(sorted(few.rglob("*.png"))[5], ns=(0, 0))
    with pytest.raises(DataChanged) as refusal:
        go_on(few, reference.run, reporter)
    assert gone in str(refusal.value)
    assert new in str(refusal.value)
    assert "1 changed" in str(refusal.value)


def test_t10_refused_images_of_a_set_that_changed_are_counted_by_name(
    few: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter
) -> None:
    [bad] = damage(few, 1)
    keys = {**EVERY_STEP, "batch_size": 60, "local_views": 0, "held_out": 0}
    reference = train(few, tmp_path / "whole", tiny_config(**keys), reporter)
    assert rows(reference.run)[-1]["corrupt"] == "1"
    for path in sorted(few.rglob("*.png"))[-40:]:
        path.unlink()
    bad.unlink()
    out = cut_after(reference.run, 3, tmp_path / "cut")
    train(few, out, TrainingConfig(), reporter, Resume(accept_data=True))
    assert rows(out)[-1]["corrupt"] == "0"


def test_t10_a_set_that_shrank_below_its_batch_is_refused(
    few: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter
) -> None:
    train(few, tmp_path / "run", tiny_config(max_steps=1, held_out=0), reporter)
    for path in sorted(few.rglob("*.png"))[10:]:
        path.unlink()
    with pytest.raises(DataTooSmall, match="fewer than the batch of 16"):
        train(few, tmp_path / "run", TrainingConfig(), reporter, Resume(accept_data=True))


# T13


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "a bit flipped": lambda data: data[:5000] + bytes([data[5000] ^ 4]) + data[5001:],
    "zeroes": lambda data: bytes(len(data)),
    "empty": lambda data: b"",
    "headless": lambda data: data.partition(b"\n")[2],
}


@pytest.mark.parametrize("damaged", DAMAGES.values(), ids=DAMAGES.keys())
def test_t13_a_damaged_checkpoint_is_passed_over_and_the_run_is_still_exact(
    digits: Path,
    tmp_path: Path,
    tiny_config: Tiny,
    reporter: Reporter,
    screen: io.StringIO,
    caplog: pytest.LogCaptureFixture,
    damaged: Callable[[bytes], bytes],
) -> None:
    reference = train(digits, tmp_path / "whole", tiny_config(**{**EVERY_STEP, "max_steps": 4}), reporter)
    out = cut_after(reference.run, 2, tmp_path / "cut")
    newest = checkpoint_path(out / "checkpoints", 3)
    newest.write_bytes(damaged(checkpoint_path(reference.run / "checkpoints", 3).read_bytes()))
    with caplog.at_level(logging.WARNING):
        go_on(digits, out, reporter)
    assert str(newest) in caplog.text
    assert "after step 2" in screen.getvalue()
    assert_equal_runs(out, reference.run)


def test_t13_where_all_checkpoints_are_damaged_nothing_is_begun_over_them(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter
) -> None:
    reference = train(digits, tmp_path / "whole", tiny_config(**EVERY_STEP), reporter)
    out = cut_after(reference.run, 2, tmp_path / "cut")
    checkpoint_path(out / "checkpoints", 2).write_bytes(b"nothing")
    with pytest.raises(CheckpointInvalid, match="no valid checkpoint"):
        go_on(digits, out, reporter)
    assert checkpoint_path(out / "checkpoints", 2).read_bytes() == b"nothing"


def test_t13_a_damaged_later_checkpoint_never_costs_the_one_that_is_written(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter
) -> None:
    whole = train(digits, tmp_path / "whole", tiny_config(**EVERY_STEP), reporter)
    checkpoint = read_checkpoint(checkpoint_path(whole.run / "checkpoints", 3))
    folder = tmp_path / "folder"
    write_checkpoint(folder, dataclasses.replace(checkpoint, step=9), keep=1).write_bytes(b"torn")
    write_checkpoint(folder, checkpoint, keep=1)
    assert newest_valid(folder).step == 3
    assert [path.name for path in folder.iterdir()] == ["step-00000003.ckpt"]


def test_t13_a_run_without_its_list_of_images_says_what_is_missing(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter
) -> None:
    reference = train(digits, tmp_path / "whole", tiny_config(max_steps=1), reporter)
    (reference.run / "images.tsv.gz").unlink()
    with pytest.raises(PathMissing, match=r"images\.tsv\.gz"):
        go_on(digits, reference.run, reporter)


# T14


def test_t14_keys_that_change_the_mathematics_are_refused_with_both_values(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter
) -> None:
    reference = train(digits, tmp_path / "run", tiny_config(max_steps=1), reporter)
    before = (reference.run / "config.toml").read_bytes()
    with pytest.raises(ConfigInvalid) as refusal:
        go_on(digits, reference.run, reporter, seed=3, prototypes=128, mask_ratio=(0.1, 0.4), workers=0)
    for line in (
        "seed was 0, and is 3 now",
        "prototypes was 64, and is 128 now",
        "mask_ratio was (0.1, 0.5), and is (0.1, 0.4)",
    ):
        assert line in str(refusal.value)
    assert "workers" not in str(refusal.value)
    assert (reference.run / "config.toml").read_bytes() == before


ANOTHER: dict[str, Any] = {
    "devices": "2",
    "nodes": 2,
    "strategy": "ddp",
    "workers": 7,
    "peer_timeout_s": 7.0,
    "log_every": 7,
    "checkpoint_every_s": 7.0,
    "keep_checkpoints": 7,
    "wandb": "project",
    "collapse": "warn",
    "collapse_steps": 7,
    "onnx": False,
    "licence": "MIT",
    "pooling": "mean",
}


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(TrainingConfig)])
def test_t14_every_key_is_either_free_or_refused(key: str, tmp_path: Path) -> None:
    saved = TrainingConfig()
    assert set(ANOTHER) == set(FREE)
    if key in FREE:
        assert getattr(continued(tmp_path, saved, {key: ANOTHER[key]}), key) == ANOTHER[key]
        return
    value = getattr(saved, key)
    other = "another" if isinstance(value, str) else (9, 9) if isinstance(value, tuple) else 1.5
    with pytest.raises(ConfigInvalid, match=f"{key} was .*, and is .* now"):
        continued(tmp_path, saved, {key: other})
    assert continued(tmp_path, saved, {key: value}) == saved


def test_t14_free_keys_are_taken_and_saved_and_the_numbers_stay_the_same(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter
) -> None:
    reference = train(digits, tmp_path / "whole", tiny_config(**EVERY_STEP), reporter)
    out = cut_after(reference.run, 1, tmp_path / "cut")
    go_on(digits, out, reporter, log_every=1, keep_checkpoints=2, collapse="off", checkpoint_every_s=99)
    saved = TrainingConfig.load(out / "config.toml")
    assert (saved.log_every, saved.keep_checkpoints, saved.collapse) == (1, 2, "off")
    assert rows(out)[-1]["loss"]
    assert len(rows(out)) > len(rows(reference.run))
    ours, theirs = (newest_valid(run / "checkpoints").method for run in (out, reference.run))
    assert_equal_state(ours, theirs)


@pytest.mark.parametrize("images", [9, 120])
def test_t14_the_same_command_again_is_no_change(
    few: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter, images: int
) -> None:
    """Also where the batch was made to fit the set: nine images in two parts are a batch of eight."""
    for path in sorted(few.rglob("*.png"))[images:]:
        path.unlink()
    given = {
        "recipe": "dinov2",
        "lr": 1e-3,
        "global_scale": (0.5, 1.0),
        "batch_size": 16,
        "accumulate": 2,
        "max_steps": 2,
    }
    config = tiny_config(**given, held_out=0)
    for _ in range(2):
        assert train(few, tmp_path / "run", config, reporter, Resume(given)).steps == 2


# T15


def checkpoint_of(processes: int) -> Checkpoint:
    return Checkpoint(1, 0.0, 0, processes, {}, {}, {}, {}, {}, {}, "", 1, "", {})


def test_t15_another_number_of_processes_is_refused_unless_it_is_accepted() -> None:
    check_processes(checkpoint_of(2), 2, Resume())
    with pytest.raises(ConfigInvalid, match=r"had 2 processes and has 1 now.*--accept-processes"):
        check_processes(checkpoint_of(2), 1, Resume())
    check_processes(checkpoint_of(2), 1, Resume(accept_processes=True))


# What is not a run


def test_a_directory_of_something_else_is_not_taken_for_a_run(tmp_path: Path) -> None:
    assert saved_config(tmp_path / "absent") is None
    (tmp_path / ".hidden").touch()
    assert saved_config(tmp_path) is None
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(OutputNotEmpty, match="not a run"):
        saved_config(tmp_path)


def test_a_new_run_does_not_go_over_an_old_one(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter
) -> None:
    train(digits, tmp_path / "run", tiny_config(max_steps=1), reporter)
    with pytest.raises(OutputNotEmpty, match="holds a run; go on with it by --resume"):
        train(digits, tmp_path / "run", tiny_config(max_steps=1), reporter)


@pytest.mark.parametrize(("key", "left_out"), [("workers", 0), ("drop_path", 0.0), ("layer_scale", 1.0)])
@pytest.mark.parametrize("line", ["", '{key} = "auto"\n'], ids=["taken out", "auto"])
def test_a_run_goes_on_where_somebody_took_a_free_line_out_of_its_keys(
    tmp_path: Path, key: str, left_out: float, line: str
) -> None:
    keys = resolve(TrainingConfig(max_epochs=3, workers=2), 1000, named("vit_small_patch16")).config
    kept = [each for each in keys.to_toml().splitlines(keepends=True) if not each.startswith(f"{key} =")]
    (tmp_path / "config.toml").write_text("".join(kept) + line.format(key=key))
    assert saved_config(tmp_path) == dataclasses.replace(keys, **{key: left_out})


def test_a_run_whose_keys_lack_one_that_it_cannot_do_without_is_refused(tmp_path: Path) -> None:
    keys = resolve(TrainingConfig(max_epochs=3), 1000, named("vit_small_patch16")).config
    kept = [each for each in keys.to_toml().splitlines(keepends=True) if not each.startswith("prototypes =")]
    (tmp_path / "config.toml").write_text("".join(kept))
    with pytest.raises(ConfigInvalid, match=r"^prototypes have no value"):
        saved_config(tmp_path)
