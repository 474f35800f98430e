"""The images of a run: decoded, turned into views, and what happens to one that cannot be decoded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from backbone.decode import DecodeLimits, decode
from backbone.errors import BackboneError, ImageRefused, PathMissing, StorageFailed
from backbone.image_file import read_image_file
from backbone.listing import ListedImage
from backbone.value_range import ValueRange
from training.distributed import all_max, all_objects
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

    image: int  # its number in the set, also where another one took its place
    views: list[Tensor]
    refusals: list[Refusal]


class Batch(NamedTuple):
    """Views of a batch (see `views.stack_views`) and its refusals."""

    global_views: Tensor  # [2B, 3, H, W] uint8
    local_views: Tensor | None  # [nB, 3, h, w] uint8
    images: list[int]  # [B] their numbers in the set
    refusals: list[Refusal]


class TrainingImages(Dataset[Item]):
    """Maps (epoch, index) to the views of that image in that epoch.

    An image that cannot be decoded is replaced by another, chosen by (seed, index) alone: the same one in every epoch and worker.
    """

    def __init__(
        self,
        images: Sequence[ListedImage],
        views: MultiCrop,
        limits: DecodeLimits,
        seed: int,
        value_range: ValueRange | None = None,
    ) -> None:
        self.images, self.views, self.limits, self.seed = images, views, limits, seed
        self.value_range = value_range

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        refusals: list[Refusal] = []
        for attempt in range(MAX_SUBSTITUTES):
            chosen = index if attempt == 0 else seed_of("substitute", self.seed, index, attempt) % len(self)
            try:
                data = read_image_file(self.images[chosen].path, self.limits.max_bytes)
                picture = decode(data, self.limits, self.views.cover, self.value_range)
            except (ImageRefused, PathMissing, StorageFailed) as error:
                refusals.append(Refusal(chosen, _reason(error)))
                continue
            return Item(index, self.views(picture, epoch, index), refusals)
        raise TooManyCorrupt(
            f"{MAX_SUBSTITUTES} images in a row cannot be used, the last because: {refusals[-1].reason}. Check the folder."
        )


def collate(items: Sequence[Item]) -> Batch:
    """Stack the views of a batch."""
    global_views, local_views = stack_views([item.views for item in items])
    refusals = [refusal for item in items for refusal in item.refusals]
    return Batch(global_views, local_views, [item.image for item in items], refusals)


class RefusalLog:
    """Counts the images that could not be used, logs each once, and stops a run with more than one in a hundred."""

    def __init__(self, images: Sequence[ListedImage]) -> None:
        self._images = images
        self.refused: set[int] = set()  # numbers of images, of all ranks after `share`
        self._unshared = False

    def add(self, refusals: Sequence[Refusal]) -> None:
        """Take note of what this process could not use."""
        for refusal in refusals:
            if refusal.image not in self.refused:
                self.refused.add(refusal.image)
                self._unshared = True
                log.warning("%s is left out: %s", self._images[refusal.image].path, refusal.reason)

    def state(self) -> list[str]:
        """Return the ids of all images that one of the ranks could not use, for a checkpoint; a collective."""
        return sorted(self._images[number].id for number in set().union(*all_objects(self.refused)))

    def restore(self, ids: Sequence[str]) -> None:
        """Go on from a `state`, on every rank; the next `share` counts anew, since the limit may have been passed by then."""
        before = set(ids)
        self.refused = {number for number, image in enumerate(self._images) if image.id in before}
        self._unshared = bool(self.refused)

    def share(self, device: torch.device) -> None:
        """Let all ranks know what one could not use, so that all stop or none; a collective on `device`.

        Raises:
            TooManyCorrupt: more than 1 % of the images, and more than one: a single file is no pattern, however small the set.
        """
        if not all_max(torch.tensor(float(self._unshared), device=device)):
            return
        self.refused, self._unshared = set().union(*all_objects(self.refused)), False
        if len(self.refused) > max(1, MAX_CORRUPT_SHARE * len(self._images)):
            raise TooManyCorrupt(
                f"{len(self.refused)} of {len(self._images)} images cannot be used, more than 1 %, for instance "
                f"{self._images[min(self.refused)].path}; the log names each with its reason. Repair or remove them."
            )


def _reason(error: BackboneError) -> str:
    return f"{type(error).__name__}: {error}"
