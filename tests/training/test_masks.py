from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightly.models.utils import random_block_mask
from numpy.typing import NDArray

from training.masks import draw_mask, draw_masks

Masks = NDArray[np.bool_]
SEEDS = st.integers(0, 2**32)
SIDES = st.integers(1, 16)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(SEEDS, st.integers(0, 40), SIDES, SIDES, st.floats(0, 1), st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_each_masked_crop_has_a_stratum_of_its_own_on_any_grid(
    seed: int, crops: int, rows: int, columns: int, probability: float, ends: tuple[float, float]
) -> None:
    """The k-th lightest mask lies in the k-th of equal parts of the interval; whole patches round it down, and one is the least."""
    low, high = sorted(ends)
    patches = rows * columns
    masks = draw_masks(rng(seed), crops, rows, columns, probability, (low, high))
    assert masks.shape == (crops, patches)
    counts = np.sort(masks.sum(axis=1))
    assert counts.max(initial=0) < patches, "a crop without a visible patch has nothing to be understood from"
    masked = counts[counts > 0]
    assert len(masked) == (int(crops * probability) if patches > 1 else 0)
    edges = np.linspace(low, high, len(masked) + 1) * patches
    for count, least, most in zip(masked, edges[:-1], edges[1:], strict=True):
        assert min(max(math.floor(least - 1e-9), 1), patches - 1) <= count <= max(most + 1e-9, 1)


@given(SEEDS, SIDES, SIDES, st.data())
def test_a_mask_covers_exactly_as_many_patches_as_asked(
    seed: int, rows: int, columns: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, rows * columns))
    mask = draw_mask(rng(seed), rows, columns, count)
    assert mask.shape == (rows, columns)
    assert mask.sum() == count


@pytest.mark.parametrize("side", [2, 4])
def test_tiny_grids_are_masked_where_lightlys_sampler_raises(side: int) -> None:
    """32 pixels in patches of 8 are 16 patches, of which less than 4 are masked in the lighter strata."""
    random.seed(0)
    with pytest.raises(ValueError, match="max_num_masks_per_block must be greater"):
        random_block_mask((32, side, side))
    for seed in range(100):
        counts = draw_masks(rng(seed), 32, side, side).sum(axis=1)
        assert (counts > 0).sum() == 16
        assert counts.max() <= side**2 // 2


def test_a_grid_of_one_patch_is_never_masked() -> None:
    assert not draw_masks(rng(), 32, 1, 1).any()


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_none_or_all_crops_can_be_masked(probability: float) -> None:
    masks = draw_masks(rng(), 10, 4, 4, probability)
    assert masks.any(axis=1).sum() == 10 * probability


def test_masked_and_unmasked_crops_are_shuffled_over_both_views() -> None:
    first_half = [draw_masks(rng(seed), 32, 7, 7).any(axis=1)[:16].sum() for seed in range(50)]
    assert 6 < np.mean(first_half) < 10
    assert len(set(first_half)) > 1


def test_light_and_heavy_masks_are_shuffled_as_well() -> None:
    """Otherwise the images at the front of every batch would always be masked lightly."""
    front = [draw_masks(rng(seed), 32, 7, 7, probability=1.0)[:8].mean() for seed in range(100)]
    assert np.mean(front) == pytest.approx(0.29, abs=0.02)  # the mean share; the 8 lightest would have 0.14


# --- the distribution, against LightlySSL's sampler on the grid of a 224-pixel crop ---

SIDE, CROPS = 14, 4000


@pytest.fixture(scope="module")
def ours() -> Masks:
    masks = draw_masks(rng(), CROPS, SIDE, SIDE).reshape(CROPS, SIDE, SIDE)
    return masks[masks.any(axis=(1, 2))]


@pytest.fixture(scope="module")
def lightlys() -> Masks:
    random.seed(0)
    masks = random_block_mask((CROPS, SIDE, SIDE)).numpy()
    return masks[masks.any(axis=(1, 2))]


def test_as_many_patches_are_masked_as_by_lightlys_sampler(ours: Masks, lightlys: Masks) -> None:
    """Both draw from the same 2,000 strata, so that the shares, sorted, differ by rounding only; theirs may give up early."""
    assert len(ours) == len(lightlys) == CROPS // 2
    differences = np.sort(ours.sum(axis=(1, 2))) - np.sort(lightlys.sum(axis=(1, 2)))
    assert np.abs(differences).max() <= 1
    assert 0 <= differences.mean() < 0.5


def test_each_patch_is_masked_as_often_as_by_lightlys_sampler(ours: Masks, lightlys: Masks) -> None:
    """A frequency f in n = 2,000 masks has a variance of f(1 - f)/n, 1e-4; over the grid, frequencies vary by 2e-2.

    Two runs of one sampler so correlate by 1 - 1e-4/2e-2 = 0.995 (masks drawn patch by patch: by 0), and no patch of 196 differs by
    more than 5 deviations of a difference, 5 * sqrt(2 * 0.25 / 2,000) = 0.08.
    """
    often, their_often = ours.mean(axis=0), lightlys.mean(axis=0)
    assert np.corrcoef(often.ravel(), their_often.ravel())[0, 1] > 0.98
    assert np.abs(often - their_often).max() < 0.08


def outline(masks: Masks) -> float:
    """Mean number of places where a masked patch lies beside a visible one."""
    return float((masks[:, 1:] != masks[:, :-1]).sum() + (masks[:, :, 1:] != masks[:, :, :-1]).sum()) / len(masks)


def test_masks_come_in_blocks_as_compact_as_lightlys(ours: Masks, lightlys: Masks) -> None:
    """Single patches at the end, where theirs give up, lengthen the outline a little; patches one by one would more than triple it."""
    assert outline(ours) == pytest.approx(outline(lightlys), rel=0.06)
    scattered = rng().permuted(ours.reshape(len(ours), -1), axis=1).reshape(ours.shape)
    assert outline(scattered) > 3 * outline(ours)


def test_a_small_mask_is_one_block() -> None:
    """Four patches: a square, a row or a column of three or four. Scattered patches hold none of these."""

    def holds(mask: Masks, height: int, width: int) -> bool:
        windows = np.lib.stride_tricks.sliding_window_view(mask, (height, width))
        return bool(windows.all(axis=(2, 3)).any())

    masks = [draw_mask(rng(seed), SIDE, SIDE, 4) for seed in range(300)]
    blocks = [(2, 2), (1, 3), (3, 1)]
    assert np.mean([any(holds(mask, *block) for block in blocks) for mask in masks]) > 0.98
    assert all(any(holds(mask, *block) for mask in masks) for block in blocks)


def test_equal_states_draw_equal_masks() -> None:
    assert np.array_equal(draw_masks(rng(5), 16, 7, 7), draw_masks(rng(5), 16, 7, 7))
    assert not np.array_equal(draw_masks(rng(5), 16, 7, 7), draw_masks(rng(6), 16, 7, 7))
