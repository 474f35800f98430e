"""Resuming a run: only what computes the same from here on continues it exactly, and everything else is refused with its name.

What is random is a function of the place in the run (`randomness.py`), so weights, optimizer and a step number are all that is needed;
but the keys, the images and the number of processes must be those that the run began with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backbone.errors import OutputNotEmpty
from training.checkpoints import Checkpoint, checkpoint_files, newest_valid
from training.config import ResolvedConfig, TrainingConfig
from training.errors import ConfigInvalid, DataChanged
from training.inventory import NAME as IMAGES
from training.inventory import Inventory

# Keys that change neither the weights nor what they are measured on: where and how often things are done, written and said.
# The number of processes has a check of its own.
FREE = (
    *("devices", "nodes", "strategy", "workers", "peer_timeout_s"),
    *("log_every", "checkpoint_every_s", "keep_checkpoints", "wandb", "collapse", "collapse_steps"),
    *("onnx", "licence", "pooling"),
)
# For a config.toml out of which somebody took these lines: views are drawn in the process itself, and no path is dropped. What the
# layers' scales began with does not matter any more, for the checkpoint has what they have become.
_LEFT_OUT = {"workers": 0, "drop_path": 0.0, "layer_scale": 1.0}


@dataclass(frozen=True)
class Resume:
    """The wish to go on with a run."""

    given: Mapping[str, Any] = field(default_factory=dict)  # keys that were given now; all others are the run's own
    accept_data: bool = False  # go on although the images are others
    accept_processes: bool = False  # go on although the number of processes is another


def saved_config(run: Path) -> ResolvedConfig | None:
    """Return the keys of the run in directory `run`.

    Returns:
        None where there is no run yet: it starts from the beginning, as a job that may be stopped at any time wants.

    Raises:
        OutputNotEmpty: the directory holds something, but not a run.
    """
    if (run / "config.toml").exists():
        given = TrainingConfig.given_values(run / "config.toml")
        return ResolvedConfig(**_LEFT_OUT | {key: value for key, value in given.items() if value is not None})
    # A run that was stopped before it began has its list of images at most.
    if run.exists() and any(not path.name.startswith(".") and path.name != IMAGES for path in run.iterdir()):
        raise OutputNotEmpty(f"{run} is not empty and not a run; name the directory of a run, or a new one.")
    return None


def continued(run: Path, saved: ResolvedConfig, given: Mapping[str, Any]) -> ResolvedConfig:
    """Return the run's keys, with those given now that do not change what is computed.

    Raises:
        ConfigInvalid: a given key would change what is computed; each is listed with both values.
    """
    values = {key: value for key, value in given.items() if value is not None and value != getattr(saved, key)}
    changed = [f"{key} was {getattr(saved, key)}, and is {values[key]} now" for key in values if key not in FREE]
    if changed:
        raise ConfigInvalid(
            f"{run} cannot go on with other mathematics: {'; '.join(changed)}. Leave these keys out, or start a new run."
        )
    return dataclasses.replace(saved, **values)


def last_checkpoint(run: Path) -> Checkpoint | None:
    """Return the newest valid checkpoint; None where the run had not come to its first one.

    Raises:
        CheckpointInvalid: there are checkpoints, and all are damaged.
    """
    folder = run / "checkpoints"
    return newest_valid(folder) if checkpoint_files(folder) else None


def check_data(run: Path, now: Inventory, resume: Resume) -> None:
    """Raise DataChanged where the images are not those that the run began with, unless that is accepted."""
    differences = [] if resume.accept_data else Inventory.read(run).differences(now)
    if differences:
        raise DataChanged(
            f"the images are not those that {run} began with: {'; '.join(differences)}. Bring them back, start a new run, "
            "or go on with --accept-data (the run is then no longer repeatable)."
        )


def check_processes(checkpoint: Checkpoint, processes: int, resume: Resume) -> None:
    """Raise ConfigInvalid where another number of processes would go on, unless that is accepted."""
    if checkpoint.processes != processes and not resume.accept_processes:
        raise ConfigInvalid(
            f"the run had {checkpoint.processes} processes and has {processes} now; drop path, and KoLeo within a process, would draw "
            "and compare otherwise. Take the same number, or go on with --accept-processes: images, views and masks stay the same."
        )
