"""Multi-crop: several random views of one image (arXiv:2006.09882, section 3.3; arXiv:2104.14294, appendix E).

A view is a function of (seed, epoch, index of the image, number of the view): the same whatever worker draws it, and after any stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from backbone.preprocess import IMAGENET_MEAN, IMAGENET_STD
from training.randomness import seed_of

GLOBAL_VIEWS = 2  # what the teacher sees of an image; every published recipe has two
JITTER = (0.4, 0.4, 0.2, 0.1)  # brightness, contrast, saturation, hue: BYOL's, kept by DINO and DINOv2
BLUR_KERNEL, BLUR_SIGMA = 9, (0.1, 2.0)  # pixels; DINOv2's
SOLARIZE_FROM = 128  # of 0 to 255
# Chance of a blur for (first global, second global, local) views. The published DINOv2 and DINOv3 weights were trained with the chances
# inverted by a slip in their code (dinov3#286); `released` repeats that.
BLUR = {"intended": (1.0, 0.1, 0.5), "released": (0.0, 0.9, 0.5), "off": (0.0, 0.0, 0.0)}


@dataclass(frozen=True)
class ViewConfig:
    """Which views are drawn; chances are probabilities, scales are shares of the image's area."""

    image_size: int  # pixels of a global view
    local_size: int  # pixels of a local view
    local_views: int
    global_scale: tuple[float, float]
    local_scale: tuple[float, float]
    horizontal_flip: float
    color_jitter: float
    grayscale: float
    solarize: float  # of the second global view
    blur: Literal["intended", "released", "off"]


class MultiCrop:
    """Two global and n local views of an image."""

    def __init__(self, config: ViewConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        first, second, local = BLUR[config.blur]
        size, scale = config.image_size, config.global_scale
        self._transforms = [
            self._transform(size, scale, first, 0.0),
            self._transform(size, scale, second, config.solarize),
        ]
        small = self._transform(config.local_size, config.local_scale, local, 0.0)
        self._transforms += [small] * config.local_views

    @property
    def cover(self) -> int:
        """Short side in pixels below which an image need not be decoded: the smallest crop is then still not enlarged."""
        config = self.config
        return round(
            max(config.image_size / config.global_scale[0] ** 0.5, config.local_size / config.local_scale[0] ** 0.5)
        )

    def __call__(self, image: Image.Image, epoch: int, index: int) -> list[Tensor]:
        """Draw the views of the image with number `index`: 2 + n tensors [3, S, S] of uint8, the global ones first."""
        views = []
        with torch.random.fork_rng(devices=[]):
            for number, transform in enumerate(self._transforms):
                # Not torch.manual_seed: it would also seed every GPU, once a view.
                torch.default_generator.manual_seed(seed_of("view", self.seed, epoch, index, number))
                views.append(functional.pil_to_tensor(transform(image)))
        return views

    def _transform(self, size: int, scale: tuple[float, float], blur: float, solarize: float) -> v2.Compose:
        config = self.config
        steps: list[v2.Transform] = [
            v2.RandomResizedCrop(size, scale=scale, interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
        ]
        if config.horizontal_flip:
            steps.append(v2.RandomHorizontalFlip(config.horizontal_flip))
        if config.color_jitter:
            steps.append(v2.RandomApply([v2.ColorJitter(*JITTER)], p=config.color_jitter))
        if config.grayscale:
            steps.append(v2.RandomGrayscale(config.grayscale))
        if blur:
            steps.append(v2.RandomApply([v2.GaussianBlur(BLUR_KERNEL, BLUR_SIGMA)], p=blur))
        if solarize:
            steps.append(v2.RandomSolarize(SOLARIZE_FROM, p=solarize))
        return v2.Compose(steps)


def stack_views(images: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor | None]:
    """Collate: [B][2 + n] views to global [2B, 3, H, W] and local [nB, 3, h, w] uint8 (None without local views), view by view."""
    by_view = list(zip(*images, strict=True))
    global_views = torch.stack([crop for view in by_view[:GLOBAL_VIEWS] for crop in view])
    rest = [crop for view in by_view[GLOBAL_VIEWS:] for crop in view]
    return global_views, torch.stack(rest) if rest else None


def normalised(pixels: Tensor) -> Tensor:
    """[B, 3, H, W] uint8 to float32 with the mean and deviation of `backbone.preprocess`."""
    mean = torch.tensor(IMAGENET_MEAN, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=pixels.device).view(1, 3, 1, 1)
    return (pixels.float() / 255 - mean) / std
