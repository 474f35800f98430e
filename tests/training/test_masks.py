from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.masks import draw_mask, draw_masks


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.integers(0, 2**32), st.integers(0, 40), st.integers(1, 9), st.integers(1, 9))
def test_exactly_the_asked_share_of_the_crops_is_masked_on_any_grid(
    seed: int, crops: int, rows: int, columns: int
) -> None:
    masks = draw_masks(rng(seed), crops, rows, columns)
    assert masks.shape == (crops, rows * columns)
    masked = int(masks.any(axis=1).sum())
    assert masked == (int(crops * 0.5) if rows * columns > 1 else 0)
    assert not masks.all(axis=1).any()


@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9), st.data())
def test_a_mask_covers_exactly_as_many_patches_as_asked(
    seed: int, rows: int, columns: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, rows * columns))
    assert draw_mask(rng(seed), rows, columns, count).sum() == count


def test_the_shares_are_stratified_over_the_batch() -> None:
    masks = draw_masks(rng(), 64, 14, 14)
    shares = np.sort(masks.mean(axis=1))[32:]
    edges = np.linspace(0.1, 0.5, 33)
    one_patch = 1 / 196
    assert np.all(shares >= edges[:-1] - one_patch)
    assert np.all(shares <= edges[1:])


def test_masked_and_unmasked_crops_are_shuffled_over_both_views() -> None:
    first_half = [draw_masks(rng(seed), 32, 7, 7).any(axis=1)[:16].sum() for seed in range(50)]
    assert 6 < np.mean(first_half) < 10
    assert len(set(first_half)) > 1


def test_masks_come_in_blocks_where_the_grid_has_room() -> None:
    mask = draw_mask(rng(3), 14, 14, 80)
    beside = (mask[:, 1:] & mask[:, :-1]).sum() + (mask[1:] & mask[:-1]).sum()
    scattered = [draw_scattered(seed, 80) for seed in range(20)]
    assert beside > max(scattered)


def draw_scattered(seed: int, count: int) -> int:
    mask = np.zeros(196, dtype=bool)
    mask[rng(seed).choice(196, count, replace=False)] = True
    grid = mask.reshape(14, 14)
    return int((grid[:, 1:] & grid[:, :-1]).sum() + (grid[1:] & grid[:-1]).sum())


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_none_or_all_crops_can_be_masked(probability: float) -> None:
    masks = draw_masks(rng(), 10, 4, 4, probability)
    assert masks.any(axis=1).sum() == 10 * probability


def test_equal_states_draw_equal_masks() -> None:
    assert np.array_equal(draw_masks(rng(5), 16, 7, 7), draw_masks(rng(5), 16, 7, 7))
    assert not np.array_equal(draw_masks(rng(5), 16, 7, 7), draw_masks(rng(6), 16, 7, 7))
