"""Whole runs on real digits: seconds each."""

from __future__ import annotations

import csv
import io
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from runs import KEYS, assert_equal_runs, run, weights

from backbone import Preprocess, load_artifact
from backbone.errors import DataInvalid, DirectoryLocked, OutputNotEmpty, PathMissing, StorageFailed
from training.checkpoints import newest_valid
from training.config import ResolvedConfig, TrainingConfig
from training.errors import ConfigInvalid, DataTooSmall, Diverged
from training.progress import Reporter
from training.run import TrainingResult, train

Tiny = Callable[..., TrainingConfig]


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def reporter(screen: io.StringIO) -> Reporter:
    return Reporter(Console(file=screen, width=200))


@pytest.fixture(scope="module")
def finished(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """One finished run that several tests look at."""
    keys = {
        "recipe": "dinov2",
        "backbone": "vit_tiny_patch4",
        "depth": 1,
        "image_size": 8,
        "local_size": 4,
        "local_views": 2,
        "batch_size": 16,
        "prototypes": 64,
        "head_hidden": 32,
        "head_bottleneck": 16,
        "max_steps": 12,
        "log_every": 4,
        "workers": 0,
        "devices": "1",
        "precision": "32",
        "layer_scale": 1.0,
    }
    out = tmp_path_factory.mktemp("runs") / "run"
    return train(digits, out, TrainingConfig.from_values(keys), Reporter(Console(file=io.StringIO())))


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_its_keys_its_metrics_a_checkpoint_and_an_artifact(finished: TrainingResult) -> None:
    assert finished.steps == 12
    assert not finished.interrupted
    assert finished.images_per_s > 0
    assert finished.knn is not None
    names = {path.name for path in finished.run.iterdir() if not path.name.startswith(".")}
    assert names == {"config.toml", "images.tsv.gz", "metrics.csv", "tensorboard", "checkpoints", "artifact"}
    assert list((finished.run / "tensorboard").glob("events*"))


def test_the_saved_keys_are_complete_and_repeat_the_run(finished: TrainingResult) -> None:
    config = ResolvedConfig.load(finished.run / "config.toml")
    assert config.prototypes == 64


def test_the_metrics_begin_with_the_untrained_score_and_end_with_the_last(finished: TrainingResult) -> None:
    written = rows(finished.run)
    assert [row["step"] for row in written] == ["0", "4", "8", "12"]
    assert written[0]["knn"]
    assert float(written[-1]["knn"]) == pytest.approx(finished.knn, rel=1e-5)
    for row in written[1:]:
        for key in ("loss", "dino", "ibot", "koleo", "images_per_s", "lr", "momentum", "teacher_entropy"):
            assert np.isfinite(float(row[key])), key
    assert float(written[-1]["momentum"]) == pytest.approx(1.0)


def test_the_artifact_is_the_teacher_of_the_last_checkpoint(finished: TrainingResult) -> None:
    artifact = load_artifact(finished.artifact)
    assert artifact.manifest.dimension == 192
    checkpoint = newest_valid(finished.run / "checkpoints")
    teacher = {
        k.removeprefix("teacher.backbone."): v
        for k, v in checkpoint.method.items()
        if k.startswith("teacher.backbone.")
    }
    written = artifact.model.state_dict()
    assert written.keys() == teacher.keys()
    assert all(torch.equal(written[name], teacher[name]) for name in written)
    assert artifact.manifest.training["steps"] == 12
    assert artifact.manifest.training["recipe"] == "dinov2"
    assert artifact.preprocess == Preprocess.for_image_size(8)


def test_the_teacher_is_not_the_student_after_training(finished: TrainingResult) -> None:
    state = newest_valid(finished.run / "checkpoints").method
    pairs = [(v, state["teacher." + k.removeprefix("student.")]) for k, v in state.items() if k.startswith("student.")]
    assert any(not torch.equal(student, teacher) for student, teacher in pairs)


def test_equal_seeds_give_equal_runs_whatever_the_workers(digits: Path, tmp_path: Path) -> None:
    for name, keys in (("alone", ["workers=0"]), ("helped", ["workers=2"]), ("other", ["workers=0", "seed=1"])):
        arguments = ["train", str(digits), "--out", str(tmp_path / name), "--recipe", "dinov2", *KEYS, "max_steps=5"]
        assert run([*arguments, *keys], tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert_equal_runs(tmp_path / "helped", tmp_path / "alone")
    assert weights(tmp_path / "other") != weights(tmp_path / "alone")


@pytest.mark.parametrize(
    ("recipe", "backbone", "dim"),
    [
        ("dino", "resnet18", 512),
        ("dinov2", "resnet18", 512),
        ("dinov2", "resnet34", 512),
        ("dinov2", "convnext_tiny", 768),
    ],
)
def test_a_cnn_trains_with_both_recipes_and_says_in_a_line_that_ibot_is_off(
    digits: Path,
    tmp_path: Path,
    tiny_config: Tiny,
    reporter: Reporter,
    screen: io.StringIO,
    recipe: str,
    backbone: str,
    dim: int,
) -> None:
    sizes = {"depth": None, "image_size": 32, "local_size": 32, "batch_size": 4, "held_out": 0, "local_views": 1}
    result = train(
        digits, tmp_path / "run", tiny_config(recipe=recipe, backbone=backbone, max_steps=2, **sizes), reporter
    )
    assert load_artifact(result.artifact).manifest.dimension == dim
    said = [line for line in screen.getvalue().splitlines() if "iBOT is off" in line]
    assert said == (
        [] if recipe == "dino" else ["  ibot_weight = 0.0  (iBOT is off: a CNN has no patch tokens to mask)"]
    )
    last = rows(result.run)[-1]
    assert float(last["ibot"]) == 0.0
    assert float(last["koleo"]) != 0.0


def test_a_list_file_without_labels_trains_without_a_score(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter, screen: io.StringIO
) -> None:
    listing = tmp_path / "images.txt"
    listing.write_text("\n".join(str(path) for path in sorted(digits.rglob("*.png"))[:40]))
    result = train(listing, tmp_path / "run", tiny_config(max_steps=2, labels="none"), reporter)
    assert result.knn is None
    assert all(row["knn"] == "" for row in rows(result.run))
    assert "held out" not in screen.getvalue()


def test_a_time_limit_ends_a_run_with_its_schedules_at_their_end(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter
) -> None:
    began = time.monotonic()
    result = train(digits, tmp_path / "run", tiny_config(max_time_s=1.5), reporter)
    assert time.monotonic() - began < 30
    last = rows(result.run)[-1]
    assert float(last["elapsed_s"]) >= 1.5
    assert float(last["momentum"]) == 1.0
    assert float(last["lr"]) == pytest.approx(1e-6)


def test_sigterm_saves_a_checkpoint_and_says_interrupted(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter
) -> None:
    out = tmp_path / "run"

    def terminate() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (out / "checkpoints").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    killer = threading.Thread(target=terminate)
    killer.start()
    result = train(digits, out, tiny_config(max_steps=100_000, checkpoint_every_s=0.2), reporter)
    killer.join()
    assert result.interrupted
    assert 0 < result.steps < 100_000
    assert newest_valid(out / "checkpoints").step == result.steps
    assert not result.artifact.exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_loss_that_is_not_finite_is_skipped_and_three_in_a_row_stop_the_run(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.module

    def broken(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float() * torch.nan

    monkeypatch.setattr(training.module, "normalised", broken)
    with pytest.raises(Diverged, match="take a lower lr"):
        train(digits, tmp_path / "run", tiny_config(max_steps=9), reporter)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_one_bad_step_is_skipped_with_its_average_and_the_run_goes_on(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.module
    from training.method import SelfDistillation

    good, calls, updates = training.module.normalised, [0], [0]

    def broken_once(pixels: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return good(pixels) * (torch.nan if calls[0] in (3, 4) else 1.0)

    update = SelfDistillation.update_teacher

    def counted(self: SelfDistillation, momentum: float) -> None:
        updates[0] += 1
        update(self, momentum)

    monkeypatch.setattr(training.module, "normalised", broken_once)
    monkeypatch.setattr(SelfDistillation, "update_teacher", counted)
    result = train(digits, tmp_path / "run", tiny_config(max_steps=6), reporter)
    assert result.steps == 6
    assert updates[0] == 5
    assert sum(int(row["skipped"] or 0) for row in rows(result.run)) == 1
    state = newest_valid(result.run / "checkpoints").method
    assert all(value.isfinite().all() for value in state.values())


def test_a_corrupt_image_does_not_stop_a_run_and_is_counted(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter
) -> None:
    listing = tmp_path / "images.txt"
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    listing.write_text("\n".join(map(str, [bad, *sorted(digits.rglob("*.png"))[:150]])))
    result = train(listing, tmp_path / "run", tiny_config(max_steps=10, labels="none"), reporter)
    assert rows(result.run)[-1]["corrupt"] == "1"


def test_a_full_disk_at_a_checkpoint_is_borne_twice(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.saving

    write, calls = training.saving.write_checkpoint, [0]

    def full(*arguments: object) -> Path:
        calls[0] += 1
        if calls[0] in (1, 2):
            raise StorageFailed("no space left on device")
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training.saving, "write_checkpoint", full)
    result = train(digits, tmp_path / "run", tiny_config(max_steps=6, checkpoint_every_s=0), reporter)
    assert newest_valid(result.run / "checkpoints").step == 6
    calls[0] = -1
    monkeypatch.setattr(training.saving, "write_checkpoint", lambda *_: full_always())
    with pytest.raises(StorageFailed):
        train(digits, tmp_path / "again", tiny_config(max_steps=6, checkpoint_every_s=0), reporter)


def full_always() -> Path:
    raise StorageFailed("no space left on device")


def test_a_batch_larger_than_the_set_is_made_smaller_with_a_line(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter, screen: io.StringIO
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(digits.rglob("*.png"))[:5]:
        (few / path.name).write_bytes(path.read_bytes())
    train(few, tmp_path / "run", tiny_config(max_steps=1), reporter)
    assert "batch_size 16 is larger than the set; using all 5 images" in screen.getvalue()


def test_every_value_that_the_recipe_chose_is_printed_with_its_reason(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter, screen: io.StringIO
) -> None:
    train(digits, tmp_path / "run", tiny_config(max_steps=1), reporter)
    assert "lr = 0.0005  (DINO's, for a batch of 256)" in screen.getvalue()
    assert "prototypes =" not in screen.getvalue()  # given, not chosen
    assert "loss" in screen.getvalue()


@pytest.mark.parametrize("images", [0, 1])
def test_no_image_or_one_is_refused_before_anything_is_written(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter, images: int
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in sorted(digits.rglob("*.png"))[:images]:
        (data / path.name).write_bytes(path.read_bytes())
    with pytest.raises((DataInvalid, DataTooSmall)):
        train(data, tmp_path / "run", tiny_config(), reporter)
    assert not (tmp_path / "run").exists()


def test_a_path_that_is_not_there_is_refused(tmp_path: Path, tiny_config: Tiny, reporter: Reporter) -> None:
    with pytest.raises(PathMissing):
        train(tmp_path / "absent", tmp_path / "run", tiny_config(), reporter)


def test_an_output_that_is_not_empty_is_refused_and_left_alone(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputNotEmpty):
        train(digits, out, tiny_config(), reporter)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_a_directory_that_another_run_writes_to_is_refused(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backbone.durable import lock_directory

    out = tmp_path / "run"
    monkeypatch.setattr("training.run.refuse_used", lambda path: None)  # both came at the same moment
    with lock_directory(out), pytest.raises(DirectoryLocked):
        train(digits, out, tiny_config(), reporter)


def test_a_depth_for_a_resnet_is_refused(digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter) -> None:
    with pytest.raises(ConfigInvalid, match="depth is a key of ViTs"):
        train(digits, tmp_path / "run", tiny_config(backbone="resnet18"), reporter)


def test_training_writes_nothing_outside_its_directory(
    digits: Path, tmp_path: Path, tiny_config: Tiny, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train(digits, tmp_path / "run", tiny_config(max_steps=1), reporter)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
