"""Lightning's trainer as this project uses it: as loop, device and process manager."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from training.config import TrainingConfig
from training.loading import expected_processes


def make_trainer(config: TrainingConfig, out: Path, callback: Callback) -> Trainer:
    """Return a trainer for these keys; what it would write or print itself is off."""
    several = config.strategy == "ddp" or expected_processes(config) > 1
    return Trainer(
        accelerator="auto",
        devices=config.devices if config.devices == "auto" else int(config.devices),
        num_nodes=config.nodes,
        strategy=DDPStrategy(timeout=timedelta(seconds=config.peer_timeout_s)) if several else "auto",
        precision="32-true",  # the step casts and scales itself, so that all ranks agree on what is skipped
        deterministic=config.deterministic,
        max_epochs=-1,  # the module knows the length of the run
        logger=False,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # `Batches` knows the ranks
        default_root_dir=out,
    )


@contextmanager
def quiet_lightning() -> Iterator[None]:
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
