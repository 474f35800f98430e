"""A training run on a folder of images: its parts put together and run, and a directory that says all about it.

RUN/config.toml      every key as it was resolved
RUN/images.tsv.gz    which images it trains on
RUN/metrics.csv      a row every few steps; RUN/tensorboard/ the same as curves
RUN/checkpoints/     step-*.ckpt, the newest few
RUN/artifact/        the EMA teacher, ready to serve
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from backbone.decode import DecodeLimits
from backbone.durable import lock_directory, refuse_non_empty
from backbone.preprocess import Preprocess
from backbone.value_range import ValueRange
from training.checkpoints import Checkpoint, Provenance, newest_valid
from training.collapse import CollapseAlarm
from training.config import ResolvedConfig, TrainingConfig, section
from training.distributed import part
from training.export import export_checkpoint
from training.images import RefusalLog, TrainingImages
from training.loading import Loading, devices_here, expected_processes
from training.metrics import Metrics
from training.module import TrainingModule
from training.plan import Plan, announce, make_plan, refuse_used, write_plan
from training.probe import Probe, Split
from training.processes.failures import named_failures
from training.processes.launcher import kept_environment, mark_children, read_world
from training.processes.meeting import check_meeting
from training.processes.temporary import ensure_short_directory
from training.processes.world import Asked, World
from training.progress import Reporter
from training.resume import Resume, check_processes, last_checkpoint, saved_config
from training.saving import Saver
from training.schedules import run_length
from training.start import Start
from training.trainer import make_trainer, quiet_lightning
from training.two_views import TwoViewProbe
from training.views import MultiCrop, ViewConfig
from training.watch import Watch
from training.weights_and_biases import WeightsAndBiases


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a run."""

    run: Path
    artifact: Path  # RUN/artifact; not there where the run was interrupted
    steps: int
    images_per_s: float  # over the steps of this process, without scores and saves; 0 where nothing was left to do
    knn: float | None  # the last online score; None without labels
    two_view_recall: float | None  # the last online score where there are no labels
    interrupted: bool  # by SIGTERM or Ctrl-C: a checkpoint is saved, an artifact is not
    by_first: bool = True  # this process is the one of the run that writes and speaks


def train(
    data: Path, out: Path, config: TrainingConfig, reporter: Reporter | None = None, resume: Resume | None = None
) -> TrainingResult:
    """Train a backbone on the images of `data` and leave everything in the directory `out`.

    Args:
        data: a folder of images, a folder of class folders, or a list file.
        out: RUN; nothing or an empty directory, unless the run in it is resumed.
        config: the keys; what is None the recipe decides.
        reporter: where progress is shown; standard error by default.
        resume: go on with the run in `out`, whose keys are then taken instead of `config`; where there is none, begin it.

    Raises:
        OutputNotEmpty, DirectoryLocked, PathMissing, DataInvalid, StorageFailed: see `backbone.errors`.
        ConfigInvalid, DataTooSmall, DataChanged, TooManyCorrupt, CheckpointInvalid, Diverged, Collapsed, LoadingFailed, CannotMeet,
            PeerLost: see `training.errors`.
    """
    reporter = reporter or Reporter()
    with kept_environment():
        world = read_world(os.environ, _asked(out, config, resume), reporter.say)
        check_meeting(world, reporter.say)
        if world.launcher is None:
            mark_children(os.environ)
        else:
            config, resume = _in_world(world, config, resume)
        return _train(world, data, out, config, reporter if world.is_first else Reporter(Console(quiet=True)), resume)


def _asked(out: Path, config: TrainingConfig, resume: Resume | None) -> Asked:
    """The number of processes that the keys ask for: of a run that goes on its own, but for those that are given now."""
    saved = None if resume is None else saved_config(out)
    given = {} if resume is None else {key: value for key, value in resume.given.items() if value is not None}
    keys = config if saved is None else saved
    devices, nodes = str(given.get("devices", keys.devices)), int(given.get("nodes", keys.nodes))
    firm = saved is None or "devices" in given or "nodes" in given  # else `check_processes` may refuse another number
    return Asked(None if devices == "auto" else int(devices), nodes, devices_here(), firm)


def _in_world(world: World, config: TrainingConfig, resume: Resume | None) -> tuple[TrainingConfig, Resume | None]:
    """Let the keys ask for the processes that a launcher has started."""
    devices, nodes = str(world.local_size), world.nodes
    if resume is not None:
        resume = dataclasses.replace(resume, given={**resume.given, "devices": devices, "nodes": nodes})
    return dataclasses.replace(config, devices=devices, nodes=nodes), resume


def _train(
    world: World, data: Path, out: Path, config: TrainingConfig, reporter: Reporter, resume: Resume | None
) -> TrainingResult:
    if resume is None and world.is_first:
        refuse_used(out)  # before anything is read, which may take long
    plan = make_plan(data, out, config, resume, reporter)
    with _claimed(out, resume) if world.is_first else nullcontext():  # the others of a run work for the first one
        checkpoint = last_checkpoint(out) if plan.resumed else None
        if checkpoint is not None and resume is not None:
            check_processes(checkpoint, expected_processes(plan.config), resume)
        if world.is_first:
            write_plan(plan, out, resume)
            announce(plan, checkpoint, out, reporter)
        return _run(world, plan, checkpoint, out, reporter)


@contextmanager
def _claimed(out: Path, resume: Resume | None) -> Iterator[None]:
    """Hold the directory; a new run wants it empty, and another may have come in since it was looked at."""
    with lock_directory(out):
        if resume is None:
            refuse_non_empty(out)
        yield


def _run(world: World, plan: Plan, checkpoint: Checkpoint | None, out: Path, reporter: Reporter) -> TrainingResult:
    config, images = plan.config, plan.split.training
    start = Start.of(config) if checkpoint is None else Start.again(checkpoint)
    steps_per_epoch = len(images) // config.batch_size
    length = run_length(config.max_steps, config.max_epochs, config.max_time_s, steps_per_epoch)
    module = TrainingModule(start.method(config), config, length, steps_per_epoch)
    if checkpoint is not None:
        module.restore(checkpoint)
    with _metrics(config, checkpoint, out) if world.is_first else nullcontext() as metrics, reporter:
        watch = _watch(plan, start, checkpoint, metrics, out, reporter)
        if module.progress < 1.0:
            if config.workers:
                ensure_short_directory(reporter.say)
            _fit(world, module, watch, plan, out)
    if world.is_first and not watch.interrupted and not (out / "artifact").exists():
        export_checkpoint(newest_valid(out / "checkpoints"), out / "artifact", onnx=config.onnx)
    images_per_s = watch.images / max(watch.training_s, 1e-9)
    scores = watch.scores or ({} if checkpoint is None else checkpoint.scores)
    return TrainingResult(
        out,
        out / "artifact",
        module.step,
        images_per_s,
        scores.get("knn"),
        scores.get("two_view_recall"),
        watch.interrupted,
        world.is_first,
    )


def _fit(world: World, module: TrainingModule, watch: Watch, plan: Plan, out: Path) -> None:
    config = module.config
    views = MultiCrop(section(config, ViewConfig), config.seed)
    dataset = TrainingImages(plan.split.training, views, DecodeLimits(), config.seed, _value_range(config))
    with quiet_lightning():
        trainer = make_trainer(config, out, watch, world)
        with named_failures(trainer, world):
            trainer.fit(module, Loading(dataset, config, module.step, lambda: watch.begin(module)))
            part()  # what follows is the first process's alone, and may take longer than the others wait


def _metrics(config: ResolvedConfig, checkpoint: Checkpoint | None, out: Path) -> Metrics:
    sinks = [] if config.wandb is None else [WeightsAndBiases(config.wandb, out, config.to_dict())]
    return Metrics(out, None if checkpoint is None else checkpoint.step, sinks)


def _watch(
    plan: Plan, start: Start, checkpoint: Checkpoint | None, metrics: Metrics | None, out: Path, reporter: Reporter
) -> Watch:
    config, split = plan.config, plan.split
    return Watch(
        reporter=reporter,
        metrics=metrics,
        probe=_probe(config, split),
        refusals=RefusalLog(split.training),
        alarm=_alarm(config),
        saver=Saver(out, config.checkpoint_every_s, config.keep_checkpoints),
        provenance=Provenance(start.lineage, len(split.training), plan.inventory.fingerprint),
        resumed=None if checkpoint is None else checkpoint.watch,
    )


def _alarm(config: ResolvedConfig) -> CollapseAlarm | None:
    if config.collapse == "off":
        return None
    return CollapseAlarm(config.prototypes, config.collapse_steps, stops=config.collapse == "stop")


def _value_range(config: ResolvedConfig) -> ValueRange | None:
    return ValueRange.unless_all(config.value_range)


def _probe(config: ResolvedConfig, split: Split) -> Probe | TwoViewProbe | None:
    """The online score: by labels where there are some, else without them."""
    if split.queries:
        return Probe(split, Preprocess.for_image_size(config.image_size, _value_range(config)), DecodeLimits())
    if split.unlabelled:
        return TwoViewProbe(
            split.unlabelled, section(config, ViewConfig), config.seed, DecodeLimits(), _value_range(config)
        )
    return None
