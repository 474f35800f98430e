"""The callback between the steps of a run: the log, the online score, the collapse alarm, checkpoints, and the end.

Every decision is taken from what all ranks agree on (the step, `elapsed_s`, the sums of a row), so that all take the same one: ranks
other than 0 neither write nor speak, but they take part in each sum, score and save.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from backbone.model import Backbone
from training.checkpoints import Provenance
from training.collapse import CollapseAlarm
from training.distributed import all_max, rank, world_size
from training.errors import LoadingStopped
from training.images import Batch, RefusalLog
from training.memory import peak_memory_gib
from training.metrics import Metrics
from training.module import StepResult, TrainingModule
from training.processes.stopping import StopSignals
from training.progress import Reporter
from training.saving import Saver
from training.tally import Row, Tally

PROBE_SHARE = 0.1  # of the run's time, at most, goes into the online score


class Probe(Protocol):
    """An online score; a collective."""

    column: str  # of the metrics

    def score(self, network: Backbone) -> float | None:
        """Return a number between 0 and 1; None where there is nothing to score."""


class Watch(Callback):
    """Logs, scores, warns, saves and ends a run."""

    def __init__(
        self,
        *,
        reporter: Reporter,
        metrics: Metrics | None,
        probe: Probe | None,
        refusals: RefusalLog,
        alarm: CollapseAlarm | None,
        saver: Saver,
        provenance: Provenance,
        resumed: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the parts; `resumed` is the `state` of a watch that this one goes on for."""
        self._reporter, self._metrics, self._probe, self._refusals = reporter, metrics, probe, refusals
        self._alarm, self._saver, self._provenance, self._resumed = alarm, saver, provenance, resumed
        self.scores: dict[str, float] = {}  # the newest online score, by its column
        self.training_s = 0.0  # time spent on steps and on waiting for images, scores and saves left out
        self.images = 0
        self.interrupted = False
        self._loading = True  # the next thing to come is images
        self._tally = Tally()
        self._signals = StopSignals()
        self._mark = time.monotonic()  # end of the last step and what followed it
        self._waited_s = 0.0
        self._next_score_s = 0.0  # of the module's `elapsed_s`

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold for the log to go on as if nothing had happened; a collective."""
        return {
            "tally": self._tally.state(),
            "scores": self.scores,
            "next_score_s": self._next_score_s,
            "refused": self._refusals.state(),
        }

    def begin(self, module: TrainingModule) -> None:
        """Take over SIGTERM and SIGINT, before the first image is waited for."""
        self._signals.take(lambda: setattr(module, "stop_asked", True), lambda: self._loading)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on, or score the untrained network, where the curve begins."""
        self._loading = False
        module = _ours(pl_module)
        self.begin(module)
        if self._resumed is not None:
            self._restore(self._resumed)
        else:
            self._log(module, self._scored(module))
        self._saver.begin(module.elapsed_s)
        self._mark = time.monotonic()
        self._loading = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Note how long the images let the step wait."""
        self._loading = False
        self._waited_s = time.monotonic() - self._mark

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
        self._count(module, batch)
        done = module.progress >= 1.0
        over = done or module.stopping
        self.interrupted = module.stopping and not done
        if done or module.step % module.config.log_every == 0:
            row = self._row(module)
            if done or (module.elapsed_s >= self._next_score_s and not over):
                row |= self._scored(module)
            self._log(module, row)
        if over or self._saver.is_due(module.elapsed_s):
            self._save(module, must=over)
        trainer.should_stop = over
        self._mark = time.monotonic()
        self._loading = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back, before Lightning gives them back to whoever had them first."""
        self._signals.give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back where a run fails; save it where it failed between two steps, of a single process."""
        self._signals.give_back()
        module = _ours(pl_module)
        if isinstance(exception, LoadingStopped) and module.step and world_size() == 1:
            self._save(module, must=False)

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._tally.restore(state["tally"])
        self.scores, self._next_score_s = dict(state["scores"]), state["next_score_s"]
        self._refusals.restore(state["refused"])

    def _count(self, module: TrainingModule, batch: Batch) -> None:
        assert isinstance(module.last, StepResult)
        spent, images = time.monotonic() - self._mark, module.config.batch_size
        self.images += images
        self.training_s += spent
        self._tally.add(module.last, images, spent, self._waited_s)
        self._refusals.add(batch.refusals)

    def _row(self, module: TrainingModule) -> Row:
        """Sum up the steps since the last row; raise where the run cannot go on. A collective."""
        row = self._tally.row(module.device)
        row["memory_gib"] = float(all_max(torch.tensor(peak_memory_gib(module.device), device=module.device)))
        self._refusals.share(module.device)
        if self._alarm is not None and not module.warming_up:
            signs = {key: row.get(key) for key in ("dino", "teacher_entropy", "prototype_use", "feature_std")}
            known = {key: math.nan if sign is None else sign for key, sign in signs.items()}
            if (warning := self._alarm.see(module.step, **known)) is not None:
                self._reporter.say(warning)
        return row

    def _log(self, module: TrainingModule, row: Row) -> None:
        if rank() != 0:
            return
        values: Row = {
            "step": module.step,
            "epoch": module.step // module.steps_per_epoch,
            "images": module.step * module.config.batch_size,
            "elapsed_s": module.elapsed_s,
            **module.knobs._asdict(),
            "corrupt": len(self._refusals.refused),
            **row,
        }
        if self._metrics is not None:
            self._metrics.write(values)
        self._reporter.show(module.progress, module.step, values)

    def _scored(self, module: TrainingModule) -> Row:
        """Score the teacher, and put the next score off so that scoring stays within its share of the time; a collective."""
        if self._probe is None:
            return {}
        began = time.monotonic()
        score = self._probe.score(module.method.teacher.backbone)
        spent_s = float(all_max(torch.tensor(time.monotonic() - began, device=module.device)))
        self._next_score_s = module.elapsed_s + spent_s / PROBE_SHARE
        if score is not None:
            self.scores = {self._probe.column: score}
        return {self._probe.column: score}

    def _save(self, module: TrainingModule, *, must: bool) -> None:
        """Write a checkpoint on the first rank; the others give what they know. A collective."""
        state = self.state()
        if rank() == 0:
            self._saver.save(module.checkpoint(self._provenance, self.scores, state), must=must)
        self._saver.begin(module.elapsed_s)


def _ours(module: LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
