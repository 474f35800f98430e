"""The training step as Lightning runs it. Optimisation is manual, so that a step can be read from top to bottom.

Lightning places tensors and wraps the module for several processes; what is learnt is in `method.py`. One call of `training_step` is
one step of the optimizer, whatever the number of parts in which its batch is computed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor

from training.batchnorm import convert
from training.checkpoints import Checkpoint, Provenance
from training.config import ResolvedConfig
from training.distributed import all_max, rank, world_size
from training.errors import Diverged
from training.images import Batch
from training.masks import masks_of_step
from training.method import Losses, SelfDistillation
from training.optimizer import clip_gradients, drop_last_layer_gradients, make_optimizer, write_schedule
from training.precision import autocast_dtype, loss_scaler
from training.randomness import seed_of
from training.schedules import Knobs, Length, Schedules
from training.views import normalised

MAX_SKIPPED = 3  # a single bad batch can happen; three in a row do not heal
FROZEN_SHARE = 0.1  # of a run: what is frozen for longer would leave short runs without it


class StepResult(NamedTuple):
    """The outcome of one step."""

    losses: Losses  # means over the parts of the batch; the tokens are the last part's
    gradient_norm: Tensor  # before clipping
    taken: bool


class TrainingModule(LightningModule):
    """Drives `SelfDistillation` by the schedules; knows how far the run is and when it is over."""

    def __init__(
        self,
        method: SelfDistillation,
        config: ResolvedConfig,
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
        self.skipped = 0  # steps not taken, in a row
        self.stop_asked = False  # by a signal, on any rank
        self.stopping = False  # agreed by all ranks
        self.last: StepResult | None = None  # the newest step
        self._scaler = loss_scaler(config.precision, torch.device("cpu"))
        self._resumed: Checkpoint | None = None
        self._started = time.monotonic()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on after `checkpoint`; call it before the run starts."""
        self.method.load_state_dict(checkpoint.method)
        self.step, self.elapsed_s, self.skipped = checkpoint.step, checkpoint.elapsed_s, checkpoint.skipped
        self._resumed = checkpoint

    def checkpoint(self, provenance: Provenance, scores: dict[str, float], watch: dict[str, Any]) -> Checkpoint:
        """Return what `restore` goes on from, with the newest scores and `Watch.state`; call it while the run goes on."""
        return Checkpoint(
            step=self.step,
            elapsed_s=self.elapsed_s,
            skipped=self.skipped,
            processes=world_size(),
            config=self.config.to_dict(),
            architecture=self.method.teacher.backbone.architecture.to_dict(),
            method=self.method.state_dict(),
            optimizer=self.trainer.optimizers[0].state_dict(),
            scaler=self._scaler.state_dict(),  # empty unless the precision is float16
            watch=watch,
            scores=scores,
            **provenance._asdict(),
        )

    @property
    def progress(self) -> float:
        """How much of the run lies behind: 0 to 1."""
        return self.length.progress(self.step, self.elapsed_s)

    @property
    def knobs(self) -> Knobs:
        """The schedules' values for the next step."""
        return self.schedules.at(self.progress)

    @property
    def warming_up(self) -> bool:
        """Whether the learning rate has not reached its peak yet."""
        return self.progress < self.config.warmup

    def configure_model(self) -> None:
        """Once the process group exists: normalise batches over all processes, and compile."""
        if world_size() > 1:
            convert(self.method, self.trainer.strategy.root_device.type)
        if self.config.compile:
            for network in (self.method.student, self.method.teacher):
                network.backbone.compile()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """See `make_optimizer`."""
        return make_optimizer(self.method.student, self.config)

    def on_train_start(self) -> None:
        """Put back what needs the optimizer and the device, and start the clock: building and compiling do not count."""
        self._scaler = loss_scaler(self.config.precision, self.device)
        if self._resumed is not None:
            self.trainer.optimizers[0].load_state_dict(self._resumed.optimizer)
            self._scaler.load_state_dict(self._resumed.scaler)
            self._resumed = None  # it holds a copy of the weights
        self._started = time.monotonic() - self.elapsed_s

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Take one step: losses, backward, freeze, clip, agree, step, average."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        knobs = self.knobs
        write_schedule(optimizer.param_groups, knobs.lr, knobs.weight_decay)
        # Drop path draws from the global generator: give it a state that depends on nothing but the place in the run.
        torch.manual_seed(seed_of("step", self.config.seed, self.step, rank()))

        losses = self._losses_and_gradients(batch, knobs.teacher_temperature)
        self._freeze(optimizer)  # before the loss scale looks at the gradients: what is dropped may not skip a step
        self._scaler.unscale_(optimizer.optimizer)
        norm = clip_gradients(self.method.student, self.config.clip_norm, self.config.clip_by)

        taken = self._agree(bool(losses.total.isfinite() & norm.isfinite()))
        if taken:
            self._scaler.step(optimizer.optimizer)
            self.method.update_teacher(knobs.momentum)
        else:
            self.method.skip_step()
        optimizer.zero_grad(set_to_none=True)
        self._count(taken, batch)
        self.last = StepResult(losses, norm, taken)

    def _losses_and_gradients(self, batch: Batch, teacher_temperature: float) -> Losses:
        """Go forward and backward through the parts of the batch, and return the mean losses."""
        parts, dtype = self.config.accumulate, autocast_dtype(self.config.precision)
        results = []
        for number, (global_views, local_views, masks) in enumerate(self._parts(batch)):
            with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                losses: Losses = self.method(global_views, local_views, masks, teacher_temperature)
            with self._synchronised(number == parts - 1):
                self.manual_backward(self._scaler.scale(losses.total / parts))
            results.append([value.detach() for value in losses[:-1]])
        means = [torch.stack(values).mean() for values in zip(*results, strict=True)]
        return Losses._make([*means, losses.teacher_tokens])

    def _parts(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
        """Cut the batch into `accumulate` parts of whole images: global and local views as pixels, and masks."""
        images = len(batch.images)
        masks = self._masks(images, batch.global_views.shape[-1])
        size = images // self.config.accumulate
        for first in range(0, images, size):
            part = slice(first, first + size)
            local_views = batch.local_views
            yield (
                normalised(_of_images(batch.global_views, part, images)),
                None if local_views is None else normalised(_of_images(local_views, part, images)),
                None if masks is None else _of_images(masks, part, images),
            )

    def _masks(self, images: int, side: int) -> Tensor | None:
        config = self.config
        if not config.ibot_weight:
            return None
        grid = side // self.method.student.backbone.stride
        chances = config.mask_probability, config.mask_ratio
        return masks_of_step(config.seed, self.step, images, grid, *chances, rank(), world_size())

    def _synchronised(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Let processes exchange gradients in the last part only: sums of the parts are exchanged once."""
        strategy = self.trainer.strategy
        return nullcontext() if last or not isinstance(strategy, ParallelStrategy) else strategy.block_backward_sync()

    def _freeze(self, optimizer: LightningOptimizer) -> None:
        """Take away the gradients of what does not learn yet."""
        if self._lies_within(self.config.freeze_last_layer):
            drop_last_layer_gradients(optimizer.param_groups)
        if self._lies_within(self.config.freeze_backbone):
            for parameter in self.method.student.backbone.parameters():
                parameter.grad = None

    def _lies_within(self, epochs: float) -> bool:
        return self.step < epochs * self.steps_per_epoch and self.progress < FROZEN_SHARE

    def _agree(self, finite: bool) -> bool:
        """Let all ranks see one clock, one wish to stop, and whether anybody's loss or gradient is not finite."""
        mine = [time.monotonic() - self._started, float(not finite), float(self.stop_asked)]
        elapsed_s, any_bad, any_stop = all_max(torch.tensor(mine, device=self.device)).tolist()
        self.elapsed_s = elapsed_s
        self.stopping = bool(any_stop)
        return not any_bad

    def _count(self, taken: bool, batch: Batch) -> None:
        scale = self._scaler.get_scale()
        self._scaler.update()
        # A float16 gradient over the range is how a loss scale finds its size; no sign of divergence before it is down to one.
        searching = scale > self._scaler.get_scale() >= 1.0
        self.step += 1
        self.skipped = 0 if taken or searching else self.skipped + 1
        if self.skipped >= MAX_SKIPPED:
            raise Diverged(
                f"the loss or its gradient was not finite in {MAX_SKIPPED} steps in a row, up to step {self.step} (seed "
                f"{self.config.seed}, images number {', '.join(map(str, batch.images))}); take a lower lr, or precision=32."
            )


def _of_images(views: Tensor, part: slice, images: int) -> Tensor:
    """Cut some images out of views that lie one after the other: [v * images, ...] -> [v * len(part), ...]."""
    return views.view(-1, images, *views.shape[1:])[:, part].flatten(0, 1)
