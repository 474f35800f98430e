"""Lightning's trainer as this project uses it: as loop, device and process manager."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from training.config import TrainingConfig
from training.errors import ConfigInvalid
from training.loading import expected_processes
from training.processes.world import ALONE, World


def make_trainer(config: TrainingConfig, out: Path, callback: Callback, world: World = ALONE) -> Trainer:
    """Return a trainer for these keys in this world; what it would write or print itself is off.

    Raises:
        ConfigInvalid: this machine does not have the devices.
    """
    # It was read from the environment when Lightning was imported, whatever that meant.
    rank_zero_only.rank = world.rank  # type: ignore[attr-defined]
    try:
        return _trainer(config, out, callback, world)
    except MisconfigurationException as error:
        raise ConfigInvalid(f"{str(error).strip().splitlines()[0]} (devices={config.devices})") from error


def _trainer(config: TrainingConfig, out: Path, callback: Callback, world: World) -> Trainer:
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
        plugins=[LightningEnvironment() if world.launcher is None else LaunchedProcess(world)],
        use_distributed_sampler=False,  # `Batches` knows the ranks
        default_root_dir=out,
    )


class LaunchedProcess(ClusterEnvironment):
    """A process that a launcher started, as Lightning wants to know it."""

    creates_processes_externally = True

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    @property
    def main_address(self) -> str:
        """Where all meet."""
        return self._world.address

    @property
    def main_port(self) -> int:
        """At which port."""
        return self._world.port

    @staticmethod
    def detect() -> bool:
        """Never: it is given."""
        return False

    def world_size(self) -> int:
        """The number of processes."""
        return self._world.size

    def set_world_size(self, size: int) -> None:
        """It is what it is."""

    def global_rank(self) -> int:
        """This one's number of all."""
        return self._world.rank

    def set_global_rank(self, rank: int) -> None:
        """It is what it is."""

    def local_rank(self) -> int:
        """This one's number on its machine."""
        return self._world.local_rank

    def node_rank(self) -> int:
        """The machine's number."""
        return self._world.rank // self._world.local_size


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
