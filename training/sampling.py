"""The batch sampler, a function of (seed, epoch, rank, world): a run can start at any step without replaying others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from training.randomness import seed_of


def epoch_order(seed: int, epoch: int, images: int) -> NDArray[np.int64]:
    """Return the permutation of all images in this epoch: [images]."""
    return np.random.default_rng(seed_of("order", seed, epoch)).permutation(images)


class Batches(Sampler[list[tuple[int, int]]]):
    """An endless stream of batches of (epoch, index), from `start_step` on.

    A step takes the next `batch_size` images of its epoch's order, and rank r of w every w-th of them from the r-th: together the ranks
    see what one process would. The images left over at the end of an epoch wait for a later one; no image is drawn twice in an epoch.
    """

    def __init__(
        self, images: int, batch_size: int, seed: int, start_step: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        """Take the global batch size, a multiple of `world` and at most `images`."""
        if not 0 < batch_size <= images or batch_size % world:
            raise ValueError(f"a batch of {batch_size} does not fit {images} images on {world} processes")
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.start_step, self.rank, self.world = start_step, rank, world

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.images // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, batch = divmod(self.start_step, self.steps_per_epoch)
        while True:
            order = epoch_order(self.seed, epoch, self.images)
            for first in range(batch * self.batch_size, self.steps_per_epoch * self.batch_size, self.batch_size):
                chosen = order[first + self.rank : first + self.batch_size : self.world]
                yield [(epoch, int(index)) for index in chosen]
            epoch, batch = epoch + 1, 0
