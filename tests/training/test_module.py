"""The step as Lightning runs it: precision, parts of a batch, compiling, schedules and freezes as they reach the optimizer."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy
from rich.console import Console
from runs import KEYS, run
from runs import rows as rows_of

import training.method
import training.module
from backbone.vit import Block
from training.checkpoints import read_checkpoint
from training.config import ResolvedConfig, TrainingConfig
from training.errors import Diverged
from training.method import Losses, SelfDistillation
from training.progress import Reporter
from training.recipes import resolve
from training.run import TrainingResult, train
from training.schedules import Schedules
from training.start import Start
from training.trainer import make_trainer

Tiny = Callable[..., TrainingConfig]


@pytest.fixture
def trained(digits: Path, tmp_path: Path, tiny_config: Tiny) -> Callable[..., TrainingResult]:
    """Run with the tiny keys and some others: `trained(max_steps=4)`."""
    runs = iter(range(100))

    def run(**keys: object) -> TrainingResult:
        config = tiny_config(**{"held_out": 0, **keys})
        return train(digits, tmp_path / f"run-{next(runs)}", config, Reporter(Console(file=io.StringIO())))

    return run


def rows(result: TrainingResult) -> list[dict[str, str]]:
    with (result.run / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["loss"]]


def losses(result: TrainingResult) -> list[float]:
    return [float(row["loss"]) for row in rows(result)]


def start_scale_at(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: scaler(device, scale, enabled=enabled))


@pytest.mark.parametrize("recipe", ["dino", "dinov2"])
@pytest.mark.parametrize("precision", ["bf16", "16"])
def test_half_precision_gives_nearly_the_losses_of_full(
    trained: Callable[..., TrainingResult], recipe: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_scale_at(monkeypatch, 16.0)  # the first steps of float16 would be spent on finding it
    keys = {"recipe": recipe, "max_steps": 4, "log_every": 1, "layer_scale": 1.0}
    full, half = losses(trained(**keys)), losses(trained(**keys, precision=precision))
    np.testing.assert_allclose(half, full, rtol=2e-2)
    assert half != full


def test_a_loss_scale_that_is_too_large_is_halved_and_no_divergence(
    trained: Callable[..., TrainingResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scaled by 2^22 gradients leave float16 for more than three steps in a row, until the scale has come down."""
    start_scale_at(monkeypatch, 2.0**22)
    result = trained(precision="16", max_steps=16, log_every=16)
    assert int(rows(result)[-1]["skipped"]) > 3
    checkpoint = read_checkpoint(result.run / "checkpoints" / "step-00000016.ckpt")
    assert checkpoint.scaler["scale"] < 2.0**20
    assert all(value.isfinite().all() for value in checkpoint.method.values())


def test_a_loss_that_is_not_finite_is_divergence_in_float16_too(
    trained: Callable[..., TrainingResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.module, "normalised", lambda pixels: pixels.float() * torch.nan)
    start_scale_at(monkeypatch, 2.0)
    with pytest.raises(Diverged, match=r"up to step \d+ \(seed 0, images number \d+, "):
        trained(precision="16", max_steps=30)


def test_the_average_moves_once_a_step_however_many_parts_the_batch_has(
    trained: Callable[..., TrainingResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    update = SelfDistillation.update_teacher

    def counted(self: SelfDistillation, momentum: float) -> None:
        calls.append(momentum)
        update(self, momentum)

    monkeypatch.setattr(SelfDistillation, "update_teacher", counted)
    result = trained(max_steps=3, accumulate=4, koleo_weight=0.1, centring="softmax")
    assert result.steps == 3
    assert len(calls) == 3
    assert calls == sorted(calls)


def test_a_compiled_run_gives_the_losses_of_one_that_is_not(digits: Path, tmp_path: Path) -> None:
    """At two resolutions, forward and backward; in processes of their own, since a compiler changes how a process runs Python."""
    keys = ["--recipe", "dinov2", *KEYS, "max_steps=3", "layer_scale=1", "held_out=0", "drop_path=0"]
    for name, compiled in (("plain", "false"), ("compiled", "true")):
        arguments = ["train", str(digits), "--out", str(tmp_path / name), *keys, f"compile={compiled}"]
        assert run(arguments, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    plain, compiled_ = ([float(row["loss"]) for row in rows_of(tmp_path / name)[1:]] for name in ("plain", "compiled"))
    assert len(plain) == 3
    np.testing.assert_allclose(compiled_, plain, rtol=1e-4)
    assert (tmp_path / "compiled" / "artifact").exists()


def test_a_deterministic_run_goes_through(trained: Callable[..., TrainingResult]) -> None:
    try:
        first, second = trained(deterministic=True, max_steps=2), trained(deterministic=True, max_steps=2)
    finally:
        torch.use_deterministic_algorithms(False)
    assert losses(first) == losses(second)


def test_every_step_learns_at_the_rate_of_the_schedule_scaled_by_the_root_of_the_batch(
    trained: Callable[..., TrainingResult],
) -> None:
    result = trained(max_steps=10, log_every=1, lr=0.016, warmup=0.2, batch_size=16)
    schedule = Schedules.from_config(ResolvedConfig.load(result.run / "config.toml"))
    assert schedule.lr.start == pytest.approx(0.016 * math.sqrt(16 / 256))
    # A row shows the knobs of the step that follows it.
    for row in rows(result):
        knobs = schedule.at(int(row["step"]) / 10)
        assert float(row["lr"]) == pytest.approx(knobs.lr, rel=1e-8)
        assert float(row["weight_decay"]) == pytest.approx(knobs.weight_decay, rel=1e-8)
        assert float(row["momentum"]) == pytest.approx(knobs.momentum, rel=1e-8)


def test_the_last_layer_rests_for_the_first_epoch_and_then_learns(trained: Callable[..., TrainingResult]) -> None:
    """An epoch of 300 images is 18 steps; the freeze is a third of one, and within the first tenth of the run."""
    keys = {"max_steps": 60, "freeze_last_layer": 1 / 3, "warmup": 0.0, "log_every": 60}
    result = trained(**keys, checkpoint_every_s=0, keep_checkpoints=100)
    name = "student.head.last_layer.parametrizations.weight.original1"

    def last_layer(step: int) -> torch.Tensor:
        return read_checkpoint(result.run / "checkpoints" / f"step-{step:08d}.ckpt").method[name]

    assert torch.equal(last_layer(1), last_layer(6))
    assert not torch.equal(last_layer(6), last_layer(7))


def test_masks_are_drawn_on_the_cpu_and_found_there_without_waiting_for_the_device(
    trained: Callable[..., TrainingResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.device] = []
    masked = training.method._masked

    def noted(masks: torch.Tensor | None, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        assert masks is not None
        seen.append(masks.device)
        return masked(masks, device)

    monkeypatch.setattr(training.method, "_masked", noted)
    trained(recipe="dinov2", max_steps=2)
    assert seen == [torch.device("cpu")] * 2


def test_several_processes_wait_for_no_unused_parameter_and_not_for_ever(tmp_path: Path, tiny_config: Tiny) -> None:
    config = tiny_config(devices="2", strategy="ddp", peer_timeout_s=7)
    strategy = make_trainer(config, tmp_path, Callback()).strategy
    assert isinstance(strategy, DDPStrategy)
    assert not strategy._ddp_kwargs.get("find_unused_parameters", False)
    assert strategy._timeout is not None
    assert strategy._timeout.total_seconds() == 7


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_every_block_drops_at_the_rate_that_was_asked_for(
    make_method: Callable[..., SelfDistillation], rate: float
) -> None:
    keys = TrainingConfig(backbone="vit_tiny_patch4", image_size=8, drop_path=rate)
    start = Start.of(keys)
    config = resolve(keys, 1000, start.architecture).config
    blocks = [m for m in start.backbone(config).modules() if isinstance(m, Block)]
    assert len(blocks) == 12
    assert {block.drop_path for block in blocks} == {rate}


def test_a_step_of_one_batch_returns_what_the_watch_needs(make_method: Callable[..., SelfDistillation]) -> None:
    outcome = make_method("dino")(torch.randn(8, 3, 16, 16), None, None, 0.05)
    assert isinstance(outcome, Losses)
    assert outcome.teacher_tokens.shape == (8, 32)
    assert not outcome.teacher_tokens.requires_grad
