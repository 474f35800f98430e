"""The plan of a run, decided before it writes anything: on which images, with which keys and for which reasons."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from backbone.dim_images import dim_note
from backbone.durable import LOCK_NAME, lock_directory, refuse_non_empty, remove_leftovers, write_file
from backbone.errors import OutputNotEmpty
from backbone.listing import ImageList, list_images
from backbone.value_range import ALL_OF_16_BITS
from training.checkpoints import Checkpoint
from training.config import ResolvedConfig, TrainingConfig
from training.config_text import AS_NAMED
from training.errors import DataTooSmall
from training.inventory import Inventory
from training.loading import check_batch, expected_processes
from training.precision import chosen_precision
from training.probe import Split, split_images
from training.progress import Reporter
from training.recipes import Resolved, resolve
from training.resume import Resume, check_data, continued, saved_config
from training.start import Start

LEAST_IMAGES = 2  # one image cannot be told from another


@dataclass(frozen=True)
class Plan:
    """The keys and the images of a run of which nothing is written yet."""

    config: ResolvedConfig
    reasons: dict[str, str]  # of the values that the recipe chose
    images: ImageList
    split: Split
    inventory: Inventory
    resumed: bool  # there is a run to go on with


def make_plan(data: Path, out: Path, config: TrainingConfig, resume: Resume | None, reporter: Reporter) -> Plan:
    """Read the images and decide on every key; see `run.train` for arguments and errors."""
    saved = None if resume is None else saved_config(out)
    keys = saved or config
    images = list_images(data, labels=keys.labels, exclude=keys.exclude)
    for note in images.notes:
        reporter.say(note)
    if keys.value_range == ALL_OF_16_BITS and (dim := dim_note(images.images)) is not None:
        reporter.say(f"{dim}: value_range=0:4095")
    inventory = Inventory.of(images.images)
    split = split_images(images.images, keys.held_out, keys.knn_images, keys.seed)
    count = len(split.training)
    if saved is not None and resume is not None:
        given = dict(resume.given)
        if "batch_size" in given:
            given["batch_size"] = _fitting(given["batch_size"], saved, count)  # as it was when the run began
        resolved = Resolved(continued(out, saved, given), {})
        if resolved.config.batch_size > count:
            raise DataTooSmall(f"there are {count} images left, fewer than the batch of {resolved.config.batch_size}.")
    else:
        start = Start.of(config)
        # What depends on the machine is settled now: a run that goes on elsewhere computes the same.
        keys = dataclasses.replace(config, licence=start.licence(config), precision=chosen_precision(config.precision))
        resolved = resolve(_fit_batch(keys, count, reporter), count, start.architecture)
    check_batch(resolved.config, expected_processes(resolved.config))
    return Plan(resolved.config, resolved.reasons, images, split, inventory, saved is not None)


def write_plan(plan: Plan, out: Path, resume: Resume | None) -> None:
    """Make `out` the directory of this run; it is locked. Raise DataChanged where a resumed run would go on with other images."""
    remove_leftovers(out)
    remove_leftovers(out / "checkpoints")
    if plan.resumed and resume is not None:
        check_data(out, plan.inventory, resume)
    plan.inventory.write(out)
    # Last: it is what makes the directory a run.
    write_file(out / "config.toml", plan.config.to_toml().encode(errors=AS_NAMED))


def refuse_used(out: Path) -> None:
    """Raise where `out` is another run's, or holds anything at all."""
    if (out / LOCK_NAME).exists():
        lock_directory(out).release()
    if (out / "config.toml").exists():
        raise OutputNotEmpty(f"{out} holds a run; go on with it by --resume, or name another output directory.")
    refuse_non_empty(out)


def _fit_batch(config: TrainingConfig, images: int, reporter: Reporter) -> TrainingConfig:
    """Make the batch no larger than the set."""
    if images < LEAST_IMAGES:
        raise DataTooSmall(
            f"there is {images} image to train on; self-supervised learning compares images, so give at least 2."
        )
    fitted = _fitting(config.batch_size, config, images)
    if fitted == config.batch_size:
        return config
    reporter.say(f"batch_size {config.batch_size} is larger than the set; using all {fitted} images in every step.")
    return dataclasses.replace(config, batch_size=fitted)


def _fitting(batch_size: int, config: TrainingConfig, images: int) -> int:
    """Return the batch size, or where that is larger than the set, the largest that all parts of a step share evenly."""
    parts = expected_processes(config) * config.accumulate
    return batch_size if batch_size <= images else max(images // parts, 1) * parts


def announce(plan: Plan, checkpoint: Checkpoint | None, out: Path, reporter: Reporter) -> None:
    """Say what will be trained on what, and every value that was chosen for the user."""
    config, held_out = plan.config, len(plan.split.queries) + len(plan.split.unlabelled)
    kept = f", {held_out} more held out for the online score" if held_out else ""
    network = Start.of(config).architecture if checkpoint is None else Start.again(checkpoint).architecture
    reporter.say(
        f"{config.recipe} with {network} at {config.image_size} pixels on "
        f"{len(plan.split.training)} images of {plan.images.root}{kept}"
    )
    for key, reason in plan.reasons.items():
        reporter.say(f"  {key} = {getattr(config, key)}  ({reason})")
    if checkpoint is not None:
        reporter.say(f"going on with {out} after step {checkpoint.step}")
    elif plan.resumed:
        reporter.say(f"{out} had not saved a checkpoint yet; beginning again")
