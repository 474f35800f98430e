"""What happens between the steps of a run: the log, the online score, checkpoints, and the end."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from backbone.errors import StorageFailed
from training.checkpoints import Checkpoint, write_checkpoint
from training.images import Batch, RefusalLog
from training.metrics import Metrics
from training.module import StepResult, TrainingModule
from training.probe import Probe
from training.progress import Reporter
from training.ranks import all_sum, rank

log = logging.getLogger(__name__)

PROBE_SHARE = 0.1  # of the run's time, at most, goes into the online score
MAX_FAILED_SAVES = 3  # in a row; a full disk may be emptied, but not for ever

Save = Callable[[TrainingModule, torch.optim.Optimizer, float | None], Checkpoint]


class Watch(Callback):
    """Logs, scores, saves and ends a run. Ranks other than 0 only count along."""

    def __init__(
        self,
        run: Path,
        metrics: Metrics | None,
        reporter: Reporter,
        probe: Probe | None,
        refusals: RefusalLog,
        make_checkpoint: Save,
    ) -> None:
        self._run, self._metrics, self._reporter = run, metrics, reporter
        self._probe, self._refusals, self._make_checkpoint = probe, refusals, make_checkpoint
        self.knn: float | None = None  # the newest score
        self.training_s = 0.0  # time spent on steps and on waiting for images, scores and saves left out
        self.images = 0
        self.interrupted = False
        self._losses: list[Tensor] = []  # [6] a step since the last row
        self._since = {"images": 0, "time_s": 0.0, "wait_s": 0.0, "skipped": 0}
        self._mark = time.monotonic()  # end of the last step and what followed it
        self._next_probe = 0.0
        self._last_save = 0.0
        self._saved_step = -1
        self._failed_saves = 0
        self._old_handlers: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over SIGTERM and SIGINT, and score the untrained network, where the curve begins."""
        module = _ours(pl_module)
        self._take_signals(module)
        self._score(module)
        self._log(module, {}, self.knn)
        self._mark = self._last_save = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Note how long the images let the step wait."""
        self._since["wait_s"] += time.monotonic() - self._mark

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Count the step; where it is time, write a row, score, save; end the run where it is over."""
        module = _ours(pl_module)
        result = module.last
        assert isinstance(result, StepResult)
        assert isinstance(batch, Batch)
        self._count(module, result, batch)
        self._refusals.add(batch.refusals)
        self.interrupted = module.stopping
        over = module.progress >= 1.0 or module.stopping
        if module.step % module.config.log_every == 0 or over:
            score = None
            if not module.stopping and (over or time.monotonic() >= self._next_probe):
                score = self._score(module)
            self._log(module, self._row(module), score)
        if over or time.monotonic() - self._last_save >= module.config.checkpoint_every_s:
            self._save(trainer, module, must=over)
        if over:
            trainer.should_stop = True
        self._mark = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back, before Lightning gives them back to whoever had them first."""
        self._return_signals()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back where a run fails."""
        self._return_signals()

    def _return_signals(self) -> None:
        while self._old_handlers:
            number, handler = self._old_handlers.popitem()
            signal.signal(number, handler)

    def _count(self, module: TrainingModule, result: StepResult, batch: Batch) -> None:
        spent = time.monotonic() - self._mark
        images = module.config.batch_size
        self.images += images
        self.training_s += spent
        self._since["images"] += images
        self._since["time_s"] += spent
        if result.taken:
            self._losses.append(torch.stack([*result.losses, result.gradient_norm]).detach().float())
        else:
            self._since["skipped"] += 1

    def _row(self, module: TrainingModule) -> dict[str, float | int | None]:
        """Summarise the steps since the last row and begin anew; a collective."""
        means: list[float] = []
        steps = all_sum(torch.tensor(float(len(self._losses)), device=module.device))
        if steps:
            total = torch.stack(self._losses).sum(dim=0)
            means = (all_sum(total) / steps).tolist()
        names = ("loss", "dino", "ibot", "koleo", "teacher_entropy", "gradient_norm")
        since = self._since
        row: dict[str, float | int | None] = dict(zip(names, means, strict=False))
        row["images_per_s"] = since["images"] / max(since["time_s"], 1e-9)
        row["data_wait"] = since["wait_s"] / max(since["time_s"], 1e-9)
        row["skipped"] = int(since["skipped"])
        self._losses, self._since = [], dict.fromkeys(since, 0)
        return row

    def _log(self, module: TrainingModule, row: dict[str, float | int | None], score: float | None) -> None:
        if rank() != 0:
            return
        knobs = module.knobs
        values: dict[str, float | int | None] = {
            "step": module.step,
            "epoch": module.step // module.steps_per_epoch,
            "images": module.step * module.config.batch_size,
            "elapsed_s": module.elapsed_s,
            **row,
            **knobs._asdict(),
            "corrupt": len(self._refusals.paths),
            "knn": score,
        }
        if self._metrics is not None:
            self._metrics.write(values)
        self._reporter.show(module.progress, module.step, values)

    def _score(self, module: TrainingModule) -> float | None:
        """Score the teacher, and put the next score off so that scoring stays within its share of the time."""
        if self._probe is None or rank() != 0:
            return None
        began = time.monotonic()
        self.knn = self._probe.score(module.method.teacher.backbone)
        now = time.monotonic()
        self._next_probe = now + (now - began) * (1 - PROBE_SHARE) / PROBE_SHARE
        return self.knn

    def _save(self, trainer: Trainer, module: TrainingModule, *, must: bool) -> None:
        """Write a checkpoint; a failure in the middle of a run is borne, at its end or the third time it is not."""
        self._last_save = time.monotonic()
        if rank() != 0:
            return
        checkpoint = self._make_checkpoint(module, trainer.optimizers[0], self.knn)
        try:
            write_checkpoint(self._run / "checkpoints", checkpoint, module.config.keep_checkpoints)
            self._failed_saves = 0
        except StorageFailed as error:
            self._failed_saves += 1
            if must or self._failed_saves >= MAX_FAILED_SAVES:
                raise
            log.warning("no checkpoint at step %d, the run goes on: %s", module.step, error)

    def _take_signals(self, module: TrainingModule) -> None:
        """On SIGTERM and Ctrl-C finish the step, save and stop. Lightning's own handlers would raise in the middle of one."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread only

        def ask(number: int, frame: FrameType | None) -> None:
            module.stop_asked = True

        for number in (signal.SIGTERM, signal.SIGINT):
            self._old_handlers[number] = signal.signal(number, ask)


def _ours(module: LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
