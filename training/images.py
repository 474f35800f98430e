"""The images of a run: decoded, turned into views, and what happens to one that cannot be decoded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from backbone.decode import DecodeLimits, decode
from backbone.durable import read_file
from backbone.errors import BackboneError, ImageRefused, PathMissing, StorageFailed
from backbone.listing import ListedImage
from training.errors import TooManyCorrupt
from training.randomness import seed_of
from training.views import MultiCrop, stack_views

log = logging.getLogger(__name__)

MAX_CORRUPT_SHARE = 0.01  # a few broken files are normal in a large folder; more says that something else is wrong
MAX_SUBSTITUTES = 32  # tries for one image before the set is called unusable


class Refusal(NamedTuple):
    """An image that could not be used, and why."""

    image: int  # its number in the set
    reason: str


class Item(NamedTuple):
    """The views of one image, and the images that had to be passed over for it."""

    views: list[Tensor]
    refusals: list[Refusal]


class Batch(NamedTuple):
    """Views of a batch (see `views.stack_views`) and its refusals."""

    global_views: Tensor  # [2B, 3, H, W] uint8
    local_views: Tensor | None  # [nB, 3, h, w] uint8
    refusals: list[Refusal]


class TrainingImages(Dataset[Item]):
    """Maps (epoch, index) to the views of that image in that epoch.

    An image that cannot be decoded is replaced by another, chosen by (seed, index) alone: the same one in every epoch and worker.
    """

    def __init__(self, images: Sequence[ListedImage], views: MultiCrop, limits: DecodeLimits) -> None:
        self.images, self.views, self.limits = images, views, limits

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        refusals: list[Refusal] = []
        for attempt in range(MAX_SUBSTITUTES):
            chosen = index if attempt == 0 else seed_of("substitute", self.views.seed, index, attempt) % len(self)
            try:
                picture = decode(read_file(self.images[chosen].path), self.limits, cover=self.views.cover)
            except (ImageRefused, PathMissing, StorageFailed) as error:
                refusals.append(Refusal(chosen, _reason(error)))
                continue
            return Item(self.views(picture, epoch, index), refusals)
        raise TooManyCorrupt(
            f"{MAX_SUBSTITUTES} images in a row cannot be used, the last because: {refusals[-1].reason}. Check the folder."
        )


def collate(items: Sequence[Item]) -> Batch:
    """Stack the views of a batch."""
    global_views, local_views = stack_views([item.views for item in items])
    return Batch(global_views, local_views, [refusal for item in items for refusal in item.refusals])


class RefusalLog:
    """Counts the images that could not be used, logs each path once, and stops a run with more than one in a hundred."""

    def __init__(self, images: Sequence[ListedImage]) -> None:
        self._images = images
        self.paths: dict[Path, str] = {}

    def add(self, refusals: Sequence[Refusal]) -> None:
        """Take note.

        Raises:
            TooManyCorrupt: more than 1 % of the images, and more than one.
        """
        for refusal in refusals:
            path = self._images[refusal.image].path
            if path not in self.paths:
                self.paths[path] = refusal.reason
                log.warning("%s is left out: %s", path, refusal.reason)
        if len(self.paths) > max(1, MAX_CORRUPT_SHARE * len(self._images)):
            path = next(reversed(self.paths))
            raise TooManyCorrupt(
                f"{len(self.paths)} of {len(self._images)} images cannot be used, more than 1 %, "
                f"the last one {path}: {self.paths[path]} Repair or remove them."
            )


def _reason(error: BackboneError) -> str:
    return f"{type(error).__name__}: {error}"
