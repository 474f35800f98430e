"""The data loader of this process: built when the processes of a run know each other, so that each loads its own share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from training.config import ResolvedConfig, TrainingConfig
from training.distributed import rank, world_size
from training.errors import ConfigInvalid
from training.images import Batch, Item, TrainingImages, collate
from training.processes.loader_process import LastWords
from training.sampling import Batches

LEAST_KOLEO = 2  # images that KoLeo compares: one has no neighbour


def devices_here() -> int:
    """Return how many processes `devices=auto` is on this machine: one a GPU, or one."""
    return max(torch.cuda.device_count(), 1)


def expected_processes(config: TrainingConfig) -> int:
    """Return how many processes the keys ask for."""
    return (devices_here() if config.devices == "auto" else int(config.devices)) * config.nodes


def check_batch(config: ResolvedConfig, processes: int) -> None:
    """Raise ConfigInvalid where the batch cannot be computed in equal parts, or where KoLeo would have nothing to compare."""
    parts = processes * config.accumulate
    if config.batch_size % parts:
        near = max(config.batch_size // parts, 1) * parts
        times = f" times accumulate={config.accumulate}" if config.accumulate > 1 else ""
        raise ConfigInvalid(
            f"batch_size is {config.batch_size}, not a multiple of the {processes} processes of the run{times}; "
            f"take batch_size={near}."
        )
    compared = config.batch_size // (config.accumulate if config.koleo_over == "all" else parts)
    if config.koleo_weight and compared < LEAST_KOLEO:
        raise ConfigInvalid(
            f"batch_size is {config.batch_size} in {parts} parts, but KoLeo compares images within a part and needs {LEAST_KOLEO}; "
            "take a larger batch_size, or koleo_weight=0."
        )


class Loading(LightningDataModule):
    """Makes the loader of a run when Lightning asks for it, which is after the process group exists."""

    def __init__(
        self,
        dataset: TrainingImages,
        config: ResolvedConfig,
        start_step: int = 0,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the parts; `begin` is called when the loader is made, before the first image is waited for."""
        super().__init__()
        self._dataset, self._config, self._start_step, self._begin = dataset, config, start_step, begin
        self.last_words = LastWords()

    def train_dataloader(self) -> DataLoader[Item]:
        """Return an endless loader of this rank's part of every batch.

        Raises:
            ConfigInvalid: the batch cannot be shared by the processes that there are.
        """
        self._begin()
        config, processes = self._config, world_size()
        check_batch(config, processes)
        return DataLoader(
            self._dataset,
            batch_sampler=Batches(
                len(self._dataset), config.batch_size, config.seed, self._start_step, rank(), processes
            ),
            collate_fn=collate,
            num_workers=config.workers,
            persistent_workers=config.workers > 0,
            worker_init_fn=self.last_words,
            pin_memory=torch.cuda.is_available(),
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:  # noqa: ANN401
        """Move the views, not the list of refusals."""
        assert isinstance(batch, Batch)
        local_views = batch.local_views
        return Batch(
            batch.global_views.to(device, non_blocking=True),
            None if local_views is None else local_views.to(device, non_blocking=True),
            batch.images,
            batch.refusals,
        )
