"""Block masks of iBOT: which patches of which global crops the student does not see.

Blocks as in BEiT (arXiv:2106.08254, algorithm 1); shares of the crops stratified as in DINOv2 (arXiv:2304.07193).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.randomness import seed_of
from training.views import GLOBAL_VIEWS

MIN_BLOCK = 4  # patches: BEiT's 16 on a 14 x 14 grid left gaps too small to fill; DINOv2 takes 4
ASPECT = (0.3, 1 / 0.3)  # height over width of a block, BEiT's
TRIES = 10  # placements tried before a block is given up


def draw_masks(
    rng: np.random.Generator,
    crops: int,
    rows: int,
    columns: int,
    probability: float = 0.5,
    ratio: tuple[float, float] = (0.1, 0.5),
) -> NDArray[np.bool_]:
    """Draw the masks of a batch.

    Exactly int(crops * probability) crops are masked. The interval `ratio` is cut into as many equal strata, and each masked
    crop draws its share from a stratum of its own, so that every batch holds light and heavy masks alike. The order is shuffled
    over the whole batch.

    Args:
        rng: the generator; equal states give equal masks.
        crops: number of crops C, both global views of an image counted.
        rows: patches along the height.
        columns: patches along the width.
        probability: share of the crops that are masked.
        ratio: smallest and largest share of a crop's patches that are masked.

    Returns:
        [C, rows * columns] booleans, true = masked. A masked crop has at least one masked patch and one visible one (a grid of
        one patch is never masked).
    """
    masked_crops = int(crops * probability)
    masks = np.zeros((crops, rows * columns), dtype=np.bool_)
    edges = np.linspace(*ratio, masked_crops + 1)
    for crop in range(masked_crops):
        share = rng.uniform(edges[crop], edges[crop + 1])
        masks[crop] = draw_mask(rng, rows, columns, _count(share, rows * columns)).ravel()
    return rng.permutation(masks)


def masks_of_step(
    seed: int,
    step: int,
    images: int,
    grid: int,
    probability: float = 0.5,
    ratio: tuple[float, float] = (0.1, 0.5),
    rank: int = 0,
    world: int = 1,
) -> Tensor:
    """Draw the masks of a step's whole batch from (seed, step), and cut out those of one rank.

    Args:
        seed: of the run.
        step: its number.
        images: B, of this rank.
        grid: patches along each side.
        probability: see `draw_masks`.
        ratio: see `draw_masks`.
        rank: which rank; it has every `world`-th image (`sampling.Batches`).
        world: number of ranks.

    Returns:
        [2B, grid * grid] booleans on the CPU, view by view as the batch is.
    """
    rng = np.random.default_rng(seed_of("mask", seed, step))
    masks = draw_masks(rng, GLOBAL_VIEWS * images * world, grid, grid, probability, ratio)
    by_view = torch.from_numpy(masks).view(GLOBAL_VIEWS, images * world, grid * grid)
    return by_view[:, rank::world].flatten(0, 1)


def draw_mask(rng: np.random.Generator, rows: int, columns: int, count: int) -> NDArray[np.bool_]:
    """Mask exactly `count` patches of one crop: blocks as long as one can be placed, then single patches at random.

    Returns:
        [rows, columns] booleans.
    """
    mask = np.zeros((rows, columns), dtype=np.bool_)
    while (missing := count - int(mask.sum())) >= MIN_BLOCK:
        if not _add_block(rng, mask, missing):
            break
    missing = count - int(mask.sum())
    if missing:
        free = np.flatnonzero(~mask)
        mask.ravel()[rng.choice(free, size=missing, replace=False)] = True
    return mask


def _count(share: float, patches: int) -> int:
    """Patches to mask: the share of them, but at least one and never all."""
    return min(max(int(share * patches), 1), patches - 1)


def _add_block(rng: np.random.Generator, mask: NDArray[np.bool_], most: int) -> bool:
    """Mask one rectangle that adds between 1 and `most` patches; say whether one was found."""
    rows, columns = mask.shape
    for _ in range(TRIES):
        area = rng.uniform(MIN_BLOCK, max(most, MIN_BLOCK))
        aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < height < rows and 0 < width < columns):
            continue
        top, left = rng.integers(0, rows - height + 1), rng.integers(0, columns - width + 1)
        block = mask[top : top + height, left : left + width]
        if 0 < block.size - int(block.sum()) <= most:
            block[:] = True
            return True
    return False
