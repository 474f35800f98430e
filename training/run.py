"""A training run on a folder of images: its parts put together and run, and a directory that says all about it.

RUN/config.toml      every key as it was resolved
RUN/images.tsv.gz    which images it trains on
RUN/metrics.csv      a row every few steps; RUN/tensorboard/ the same as curves
RUN/checkpoints/     step-*.ckpt, the newest few
RUN/artifact/        the EMA teacher, ready to serve
"""

from __future__ import annotations

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
from training.distributed import is_first_process, part
from training.export import export_checkpoint
from training.failures import named_failures
from training.images import RefusalLog, TrainingImages
from training.loading import Loading, expected_processes
from training.metrics import Metrics
from training.module import TrainingModule
from training.plan import Plan, announce, make_plan, refuse_used, write_plan
from training.probe import Probe, Split
from training.progress import Reporter
from training.resume import Resume, check_processes, last_checkpoint
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
        ConfigInvalid, DataTooSmall, DataChanged, TooManyCorrupt, CheckpointInvalid, Diverged, Collapsed, LoadingFailed, PeerLost: see
            `training.errors`.
    """
    first = is_first_process()
    reporter = (reporter or Reporter()) if first else Reporter(Console(quiet=True))
    if resume is None and first:
        refuse_used(out)  # before anything is read, which may take long
    plan = make_plan(data, out, config, resume, reporter)
    with _claimed(out, resume) if first else nullcontext():  # the other processes of a run work for the first one
        checkpoint = last_checkpoint(out) if plan.resumed else None
        if checkpoint is not None and resume is not None:
            check_processes(checkpoint, expected_processes(plan.config), resume)
        if first:
            write_plan(plan, out, resume)
            announce(plan, checkpoint, out, reporter)
        return _run(plan, checkpoint, out, reporter)


@contextmanager
def _claimed(out: Path, resume: Resume | None) -> Iterator[None]:
    """Hold the directory; a new run wants it empty, and another may have come in since it was looked at."""
    with lock_directory(out):
        if resume is None:
            refuse_non_empty(out)
        yield


def _run(plan: Plan, checkpoint: Checkpoint | None, out: Path, reporter: Reporter) -> TrainingResult:
    config, images = plan.config, plan.split.training
    start = Start.of(config) if checkpoint is None else Start.again(checkpoint)
    steps_per_epoch = len(images) // config.batch_size
    length = run_length(config.max_steps, config.max_epochs, config.max_time_s, steps_per_epoch)
    module = TrainingModule(start.method(config), config, length, steps_per_epoch)
    if checkpoint is not None:
        module.restore(checkpoint)
    first = is_first_process()
    with _metrics(config, checkpoint, out) if first else nullcontext() as metrics, reporter:
        watch = _watch(plan, start, checkpoint, metrics, out, reporter)
        if module.progress < 1.0:
            _fit(module, watch, plan, out)
    if first and not watch.interrupted and not (out / "artifact").exists():
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
    )


def _fit(module: TrainingModule, watch: Watch, plan: Plan, out: Path) -> None:
    config = module.config
    views = MultiCrop(section(config, ViewConfig), config.seed)
    dataset = TrainingImages(plan.split.training, views, DecodeLimits(), config.seed, _value_range(config))
    with quiet_lightning():
        trainer = make_trainer(config, out, watch)
        with named_failures(trainer):
            trainer.fit(module, Loading(dataset, config, module.step))
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
    return None if config.value_range is None else ValueRange.of(config.value_range)


def _probe(config: ResolvedConfig, split: Split) -> Probe | TwoViewProbe | None:
    """The online score: by labels where there are some, else without them."""
    if split.queries:
        return Probe(split, Preprocess.for_image_size(config.image_size, _value_range(config)), DecodeLimits())
    if split.unlabelled:
        return TwoViewProbe(
            split.unlabelled, section(config, ViewConfig), config.seed, DecodeLimits(), _value_range(config)
        )
    return None
