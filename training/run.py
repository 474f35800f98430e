"""Train on a folder of images: put the parts together, run them, and leave a directory that says all about the run.

RUN/config.toml      every key as it was resolved
RUN/metrics.csv      a row every few steps; RUN/tensorboard/ the same as curves
RUN/checkpoints/     step-*.ckpt, the newest few
RUN/artifact/        the EMA teacher, ready to serve
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from rich.console import Console

from backbone.architecture import Architecture, build, named
from backbone.decode import DecodeLimits
from backbone.durable import lock_directory, refuse_non_empty, write_file
from backbone.listing import ImageList, list_images
from backbone.model import Backbone
from backbone.preprocess import Preprocess
from training.checkpoints import Checkpoint
from training.config import TrainingConfig, section
from training.errors import ConfigInvalid, DataTooSmall
from training.export import write_teacher
from training.images import RefusalLog, TrainingImages
from training.length import run_length
from training.loading import Loading
from training.method import MethodConfig, SelfDistillation
from training.metrics import Metrics
from training.module import TrainingModule
from training.precision import uses_bf16
from training.probe import Probe, Split, split_images
from training.progress import Reporter
from training.randomness import seed_of
from training.ranks import is_first_process
from training.recipes import Resolved, resolve
from training.views import MultiCrop, ViewConfig
from training.watch import Watch

LEAST_IMAGES = 2  # one image cannot be told from another


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to."""

    run: Path
    artifact: Path  # RUN/artifact; not there where the run was interrupted
    steps: int
    images_per_s: float  # over the steps; scores and checkpoints left out
    knn: float | None  # the last online score; None without labels
    interrupted: bool  # by SIGTERM or Ctrl-C: a checkpoint is saved, an artifact is not


def train(data: Path, out: Path, config: TrainingConfig, reporter: Reporter | None = None) -> TrainingResult:
    """Train a backbone on the images of `data` and leave everything in the new directory `out`.

    Args:
        data: a folder of images, a folder of class folders, or a list file.
        out: RUN; nothing or an empty directory.
        config: the keys; what is None the recipe decides.
        reporter: where progress is shown; standard error by default.

    Raises:
        OutputNotEmpty, DirectoryLocked, PathMissing, DataInvalid, StorageFailed: see `backbone.errors`.
        ConfigInvalid, DataTooSmall, TooManyCorrupt, Diverged: see `training.errors`.
    """
    first = is_first_process()
    reporter = (reporter or Reporter()) if first else Reporter(Console(quiet=True))
    if first:
        refuse_non_empty(out)
    images = list_images(data, labels=config.labels)
    split = split_images(images.images, config.held_out, config.knn_images, config.seed)
    config = _fit_batch(config, len(split.training), reporter)
    architecture = choose_architecture(config)
    resolved = resolve(config, len(split.training), architecture)
    with lock_directory(out) if first else nullcontext():  # the other processes of a run work for the first one
        if first:
            write_file(out / "config.toml", resolved.config.to_toml().encode())
            _announce(reporter, resolved, images, split, architecture)
        return _run(split, out, resolved.config, reporter)


def choose_architecture(config: TrainingConfig) -> Architecture:
    """Return the architecture that `backbone`, `image_size` and `depth` name."""
    architecture = named(config.backbone, config.image_size)
    if config.depth is None:
        return architecture
    if architecture.name != "vit":
        raise ConfigInvalid(f"depth is a key of ViTs; {config.backbone} has its depth in its name. Leave it out.")
    return Architecture(architecture.name, {**architecture.params, "depth": config.depth})


def initial_backbone(config: TrainingConfig) -> Backbone:
    """Build the backbone that a run with these resolved keys starts from; equal keys give equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of("weights", config.seed))
        backbone = build(choose_architecture(config), config.drop_path or 0.0, config.layer_scale)
    backbone.pooling = config.pooling
    return backbone


def _run(split: Split, out: Path, config: TrainingConfig, reporter: Reporter) -> TrainingResult:
    limits = DecodeLimits()
    preprocess = Preprocess.for_image_size(config.image_size)
    method = _build_method(config)
    steps_per_epoch = len(split.training) // config.batch_size
    length = run_length(config.max_steps, config.max_epochs, config.max_time_s, steps_per_epoch)
    module = TrainingModule(method, config, length, steps_per_epoch)
    dataset = TrainingImages(split.training, MultiCrop(section(config, ViewConfig), config.seed), limits)
    fingerprint = hashlib.sha256("\n".join(image.id for image in split.training).encode()).hexdigest()
    make_checkpoint = partial(_checkpoint, images=len(split.training), fingerprint=fingerprint)
    probe = Probe(split, preprocess, limits) if split.queries else None
    first = is_first_process()
    with Metrics(out) if first else nullcontext() as metrics, reporter, _quiet_lightning():
        watch = Watch(out, metrics, reporter, probe, RefusalLog(split.training), make_checkpoint)
        trainer = _trainer(config, out, watch)
        trainer.fit(module, Loading(dataset, config))
    images_per_s = watch.images / max(watch.training_s, 1e-9)
    if first and not watch.interrupted:
        final = make_checkpoint(module, trainer.optimizers[0], watch.knn)
        write_teacher(final, method.teacher.backbone, out / "artifact", onnx=config.onnx)
    return TrainingResult(out, out / "artifact", module.step, images_per_s, watch.knn, watch.interrupted)


def _build_method(config: TrainingConfig) -> SelfDistillation:
    """Build student and teacher with weights that depend on the seed alone."""
    backbone = initial_backbone(config)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of("heads", config.seed))
        return SelfDistillation(backbone, section(config, MethodConfig))


def _trainer(config: TrainingConfig, out: Path, watch: Watch) -> Trainer:
    """Lightning as loop, device and process manager; what it would write or print itself is off."""
    return Trainer(
        accelerator="auto",
        devices=int(config.devices) if config.devices.isdigit() else config.devices,
        num_nodes=config.nodes,
        strategy=config.strategy,
        precision="bf16-mixed" if uses_bf16(config.precision) else "32-true",
        max_epochs=-1,  # the module knows the length of the run
        logger=False,
        callbacks=[watch],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # `Batches` knows the ranks
        default_root_dir=out,
    )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advertising and its advice on what is decided here out of the user's sight."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # the teacher is
            # Lightning 2.6 on a newer torch than it knows: nothing that a user could act on.
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _checkpoint(
    module: TrainingModule, optimizer: torch.optim.Optimizer, knn: float | None, *, images: int, fingerprint: str
) -> Checkpoint:
    return Checkpoint(
        step=module.step,
        elapsed_s=module.elapsed_s,
        config=module.config.to_dict(),
        architecture=module.method.teacher.backbone.architecture.to_dict(),
        method=module.method.state_dict(),
        optimizer=optimizer.state_dict(),
        images=images,
        data_fingerprint=fingerprint,
        knn=knn,
    )


def _fit_batch(config: TrainingConfig, images: int, reporter: Reporter) -> TrainingConfig:
    """Make the batch no larger than the set."""
    if images < LEAST_IMAGES:
        raise DataTooSmall(
            f"there is {images} image to train on; self-supervised learning compares images, so give at least 2."
        )
    if config.batch_size <= images:
        return config
    reporter.say(f"batch_size {config.batch_size} is larger than the set; using all {images} images in every step.")
    return dataclasses.replace(config, batch_size=images)


def _announce(
    reporter: Reporter, resolved: Resolved, images: ImageList, split: Split, architecture: Architecture
) -> None:
    """Say what will be trained on what, and every value that was chosen for the user."""
    held_out = f", {len(split.queries)} more held out for the kNN score" if split.queries else ""
    reporter.say(
        f"{resolved.config.recipe} with {architecture} at {resolved.config.image_size} pixels on "
        f"{len(split.training)} images of {images.root}{held_out}"
    )
    for key, reason in resolved.reasons.items():
        reporter.say(f"  {key} = {getattr(resolved.config, key)}  ({reason})")
