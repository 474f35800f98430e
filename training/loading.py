"""Batches of views for this process: built when the processes of a run know each other, so that each loads its own share."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from training.config import TrainingConfig
from training.errors import ConfigInvalid
from training.images import Batch, Item, TrainingImages, collate
from training.ranks import rank, world_size
from training.sampling import Batches


class Loading(LightningDataModule):
    """Makes the loader of a run when Lightning asks for it, which is after the process group exists."""

    def __init__(self, dataset: TrainingImages, config: TrainingConfig) -> None:
        super().__init__()
        self._dataset, self._config = dataset, config

    def train_dataloader(self) -> DataLoader[Item]:
        """Return an endless loader of this rank's part of every batch.

        Raises:
            ConfigInvalid: the batch cannot be shared evenly.
        """
        config, processes = self._config, world_size()
        if config.batch_size % processes:
            raise ConfigInvalid(
                f"batch_size is {config.batch_size}, not a multiple of the {processes} processes of the run."
            )
        workers = config.workers or 0
        return DataLoader(
            self._dataset,
            batch_sampler=Batches(len(self._dataset), config.batch_size, config.seed, 0, rank(), processes),
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:  # noqa: ANN401
        """Move the views, not the list of refusals."""
        assert isinstance(batch, Batch)
        local_views = batch.local_views
        return Batch(
            batch.global_views.to(device, non_blocking=True),
            None if local_views is None else local_views.to(device, non_blocking=True),
            batch.refusals,
        )
