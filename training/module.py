"""The training step as Lightning runs it. Optimisation is manual, so that a step can be read from top to bottom.

Lightning places tensors, wraps the module for several processes and casts to the precision; what is learnt is in `method.py`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from training.config import TrainingConfig
from training.errors import Diverged
from training.images import Batch
from training.length import Length
from training.masks import draw_masks
from training.method import GLOBAL_VIEWS, Losses, SelfDistillation
from training.parameter_groups import drop_last_layer_gradients, parameter_groups, write_schedule
from training.randomness import seed_of
from training.ranks import all_max, rank, world_size
from training.schedules import Cosine, Ramp
from training.views import normalised

LR_BATCH = 256  # images: the batch that `lr` is meant for
MAX_SKIPPED = 3  # a single bad batch can happen; three in a row do not heal
FROZEN_SHARE = 0.1  # of a run: a last layer frozen for longer would leave short runs without one


class Knobs(NamedTuple):
    """What the schedules say at one step."""

    lr: float
    weight_decay: float
    momentum: float
    teacher_temperature: float


@dataclass(frozen=True)
class Schedules:
    """The four schedules of a run."""

    lr: Cosine
    weight_decay: Cosine
    momentum: Cosine
    teacher_temperature: Ramp

    @classmethod
    def from_config(cls, config: TrainingConfig) -> Schedules:
        """Build them from resolved keys; the learning rate grows with the root of the batch (arXiv:2205.10287)."""
        c = config
        assert c.lr is not None
        assert c.weight_decay is not None
        assert c.weight_decay_end is not None
        assert c.momentum is not None
        assert c.teacher_temperature is not None
        assert c.teacher_temperature_start is not None
        peak = c.lr * math.sqrt(c.batch_size / LR_BATCH)
        return cls(
            lr=Cosine(peak, min(c.lr_end, peak), warmup=c.warmup),
            weight_decay=Cosine(c.weight_decay, c.weight_decay_end),
            momentum=Cosine(c.momentum, c.momentum_end),
            teacher_temperature=Ramp(c.teacher_temperature_start, c.teacher_temperature, c.teacher_temperature_warmup),
        )

    def at(self, progress: float) -> Knobs:
        """Return the values at `progress`."""
        return Knobs(
            self.lr(progress), self.weight_decay(progress), self.momentum(progress), self.teacher_temperature(progress)
        )


class StepResult(NamedTuple):
    """What one step was."""

    losses: Losses
    gradient_norm: Tensor  # before clipping
    taken: bool


class TrainingModule(LightningModule):
    """Drives `SelfDistillation` by the schedules; knows how far the run is and when it is over."""

    def __init__(
        self,
        method: SelfDistillation,
        config: TrainingConfig,
        length: Length,
        steps_per_epoch: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.method = method
        self.config, self.length, self.steps_per_epoch = config, length, steps_per_epoch
        self.schedules = Schedules.from_config(config)
        self.step = 0  # batches consumed, steps skipped included: the position in the data
        self.elapsed_s = 0.0  # as all ranks agreed on after the last step
        self.stop_asked = False  # by a signal, on any rank
        self.stopping = False  # agreed by all ranks
        self.last: StepResult | None = None  # the newest step
        self._skipped = 0
        self._started = time.monotonic()

    @property
    def progress(self) -> float:
        """How much of the run lies behind: 0 to 1."""
        return self.length.progress(self.step, self.elapsed_s)

    @property
    def knobs(self) -> Knobs:
        """The schedules' values for the next step."""
        return self.schedules.at(self.progress)

    def on_train_start(self) -> None:
        """Start the clock of `max_time_s`: building and compiling do not count."""
        self._started = time.monotonic() - self.elapsed_s

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW with PyTorch's betas and epsilon, as both papers."""
        student = self.method.student
        assert self.config.layer_decay is not None
        assert self.config.patch_embed_lr is not None
        blocks = getattr(student.backbone, "blocks", ())
        groups = parameter_groups(student, len(blocks), self.config.layer_decay, self.config.patch_embed_lr)
        return torch.optim.AdamW(groups, lr=0.0)  # the schedule writes the rate before every step

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Take one step: losses, backward, freeze, clip, agree, step, average."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        knobs = self.knobs
        write_schedule(optimizer.param_groups, knobs.lr, knobs.weight_decay)
        # Drop path draws from the global generator: give it a state that depends on nothing but the place in the run.
        torch.manual_seed(seed_of("step", self.config.seed, self.step, rank()))

        local_views = None if batch.local_views is None else normalised(batch.local_views)
        masks = self._masks(batch.global_views.shape[0], batch.global_views.shape[-1])
        losses: Losses = self.method(normalised(batch.global_views), local_views, masks, knobs.teacher_temperature)
        self.manual_backward(losses.total)
        if self._last_layer_frozen():
            drop_last_layer_gradients(optimizer.param_groups)
        norm = torch.nn.utils.clip_grad_norm_(self.method.student.parameters(), self.config.clip_norm)

        taken = self._agree(bool(losses.total.isfinite() & norm.isfinite()))
        if taken:
            optimizer.step()
            self.method.update_teacher(knobs.momentum)
        optimizer.zero_grad(set_to_none=True)
        self._count(taken)
        self.last = StepResult(Losses(*(loss.detach() for loss in losses)), norm.detach(), taken)

    def _masks(self, views: int, side: int) -> Tensor | None:
        """Draw the masks of the global batch from (seed, step) and cut out this rank's: [2B, N] on the CPU."""
        if not self.config.ibot_weight:
            return None
        cells = side // self.method.student.backbone.stride
        rng = np.random.default_rng(seed_of("mask", self.config.seed, self.step))
        all_views = views * world_size()
        masks = draw_masks(rng, all_views, cells, cells, self.config.mask_probability, self.config.mask_ratio)
        # View by view as the batch is, and each rank has every w-th image (`sampling.py`).
        by_view = torch.from_numpy(masks).view(GLOBAL_VIEWS, -1, cells * cells)
        return by_view[:, rank() :: world_size()].flatten(0, 1)

    def _last_layer_frozen(self) -> bool:
        frozen_steps = self.config.freeze_last_layer * self.steps_per_epoch
        return self.step < frozen_steps and self.progress < FROZEN_SHARE

    def _agree(self, finite: bool) -> bool:
        """Let all ranks see one clock, one wish to stop, and whether anybody's loss or gradient is not finite."""
        mine = [time.monotonic() - self._started, float(not finite), float(self.stop_asked)]
        elapsed_s, any_bad, any_stop = all_max(torch.tensor(mine, device=self.device)).tolist()
        self.elapsed_s = elapsed_s
        self.stopping = bool(any_stop)
        return not any_bad

    def _count(self, taken: bool) -> None:
        self.step += 1
        self._skipped = 0 if taken else self._skipped + 1
        if self._skipped >= MAX_SKIPPED:
            raise Diverged(
                f"the loss or its gradient was not finite in {MAX_SKIPPED} steps in a row, up to step {self.step} (seed "
                f"{self.config.seed}); take a lower lr, or precision=32."
            )
