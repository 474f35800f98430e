"""The two-view recall, the online score without labels: does an image's vector find another view of the same image among all others?

It is the task of Wu et al. 2018 (arXiv:1805.01978): each image is a class of its own. Here it is measured as retrieval, on images that
were never trained on, between two of the augmented views that DINO learns to give equal targets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backbone.decode import DecodeLimits, decode
from backbone.embedding import evaluating
from backbone.errors import ImageRefused, PathMissing, StorageFailed
from backbone.image_file import read_image_file
from backbone.listing import ListedImage
from backbone.model import Backbone
from backbone.value_range import ValueRange
from backbone.vote import nearest
from training.distributed import rank, world_size
from training.probe import gathered
from training.randomness import seed_of
from training.views import GLOBAL_VIEWS, MultiCrop, ViewConfig, normalised

BATCH = 32  # images at once: as many views as `backbone.embedding` embeds at once


class TwoViewProbe:
    """Scores a backbone on images without labels, each process its share of them; it stands in the place of `probe.Probe`."""

    column = "two_view_recall"  # its name in the log

    def __init__(
        self,
        images: Sequence[ListedImage],
        views: ViewConfig,
        seed: int,
        limits: DecodeLimits,
        value_range: ValueRange | None = None,
    ) -> None:
        self._images, self._limits, self._value_range = images, limits, value_range
        self._views = MultiCrop(dataclasses.replace(views, local_views=0), seed)

    def score(self, network: Backbone) -> float | None:
        """Return recall@1, 0 to 1: the share of images whose first view is nearer to its own second view than to all others.

        Chance is one over the number of images. None with fewer than two images that can be decoded. The network's mode is put back.
        A collective: every rank calls it, and gets the same number.
        """
        mine = range(rank(), len(self._images), world_size())
        _, pairs = gathered(*self._embed(network, mine))  # [n, 2, dim]
        if len(pairs) < 2:
            return None
        _, found = nearest(pairs[:, 0], pairs[:, 1], k=1)
        return float(np.mean(found[:, 0] == np.arange(len(pairs))))

    @torch.no_grad()
    def _embed(self, network: Backbone, positions: Sequence[int]) -> tuple[list[int], NDArray[np.float32]]:
        """Embed both views of the images that can be decoded, in evaluation mode and full precision: their positions, [n, 2, dim]."""
        device = next(network.parameters()).device
        vectors: list[NDArray[np.float32]] = []
        kept: list[int] = []
        with evaluating(network):
            for start in range(0, len(positions), BATCH):
                drawn = [(at, self._draw(self._images[at])) for at in positions[start : start + BATCH]]
                pairs = [(at, views) for at, views in drawn if views is not None]
                if pairs:
                    pixels = torch.cat([views for _, views in pairs]).to(device)  # [2b, 3, H, W]
                    with torch.autocast(device.type, enabled=False):
                        embedded = network.embed(normalised(pixels))
                    vectors.append(embedded.float().cpu().numpy().reshape(len(pairs), GLOBAL_VIEWS, -1))
                    kept += [at for at, _ in pairs]
        return kept, np.concatenate(vectors) if vectors else np.empty((0, GLOBAL_VIEWS, network.dim), dtype=np.float32)

    def _draw(self, image: ListedImage) -> Tensor | None:
        """The two views of an image [2, 3, H, W], the same at every score; None if it cannot be decoded."""
        try:
            data = read_image_file(image.path, self._limits.max_bytes)
            picture = decode(data, self._limits, self._views.cover, self._value_range)
        except (ImageRefused, PathMissing, StorageFailed):
            return None  # training's to report
        return torch.stack(self._views(picture, epoch=0, index=seed_of(f"two views {image.id}")))
