from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pictures import picture
from PIL import Image

from backbone.preprocess import Preprocess
from training.config import TrainingConfig, section
from training.views import MultiCrop, ViewConfig, normalised, stack_views


@pytest.fixture
def view_config() -> Callable[..., ViewConfig]:
    plain = {
        "image_size": 32,
        "local_size": 16,
        "local_views": 3,
        "global_scale": (0.4, 1.0),
        "local_scale": (0.05, 0.4),
        "blur": "intended",
    }
    return lambda **keys: section(TrainingConfig.from_values({**plain, **keys}), ViewConfig)


Config = Callable[..., ViewConfig]


def test_an_image_gives_two_large_views_and_the_asked_number_of_small_ones(view_config: Config) -> None:
    views = MultiCrop(view_config(), seed=0)(picture(), epoch=0, index=0)
    assert [tuple(view.shape) for view in views] == [(3, 32, 32)] * 2 + [(3, 16, 16)] * 3
    assert all(view.dtype == torch.uint8 for view in views)


def test_a_view_depends_on_seed_epoch_index_and_number_and_on_nothing_else(view_config: Config) -> None:
    first = MultiCrop(view_config(), seed=1)(picture(), epoch=2, index=3)
    torch.rand(17)
    again = MultiCrop(view_config(), seed=1)(picture(), epoch=2, index=3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for seed, epoch, index in ((0, 2, 3), (1, 0, 3), (1, 2, 4)):
        other = MultiCrop(view_config(), seed=seed)(picture(), epoch=epoch, index=index)
        assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[2], first[3])


def test_drawing_views_leaves_the_global_generator_as_it_was(view_config: Config) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    MultiCrop(view_config(), seed=0)(picture(), 0, 0)
    assert torch.equal(torch.rand(3), expected)


def sharpness(view: torch.Tensor) -> float:
    pixels = view.float()
    return float((pixels[:, :, 1:] - pixels[:, :, :-1]).abs().mean())


@pytest.mark.parametrize(
    ("blur", "blurred"), [("intended", (True, False)), ("released", (False, True)), ("off", (False, False))]
)
def test_the_first_view_is_always_blurred_as_dino_intends_or_never_as_released(
    view_config: Config, blur: str, blurred: tuple[bool, bool]
) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    plain = {
        "color_jitter": 0,
        "grayscale": 0,
        "solarize": 0,
        "global_scale": (1.0, 1.0),
        "local_views": 0,
        "blur": blur,
    }
    crop = MultiCrop(view_config(**plain), seed=0)
    sharp = np.median([[sharpness(view) for view in crop(noise, 0, index)] for index in range(40)], axis=0)
    limit = 0.75 * sharpness(torch.from_numpy(np.array(noise)).permute(2, 0, 1))
    assert tuple(sharp < limit) == blurred


def test_left_and_right_stay_where_flips_are_off(view_config: Config) -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 8, dtype=np.uint8)[None, :, None], (32, 1, 3)))
    plain = {"color_jitter": 0, "grayscale": 0, "solarize": 0, "blur": "off"}

    def rises(view: torch.Tensor) -> bool:
        return bool(view[:, :, -1].float().mean() > view[:, :, 0].float().mean())

    still = MultiCrop(view_config(**plain, horizontal_flip=0), seed=0)
    assert all(rises(view) for index in range(10) for view in still(ramp, 0, index))
    flipped = MultiCrop(view_config(**plain, horizontal_flip=0.5), seed=0)
    shares = [rises(view) for index in range(40) for view in flipped(ramp, 0, index)]
    assert 0.3 < np.mean(shares) < 0.7


def test_colours_stay_where_their_changes_are_off(view_config: Config) -> None:
    red = Image.new("RGB", (40, 40), (200, 30, 20))
    plain = {"color_jitter": 0, "grayscale": 0, "solarize": 0, "blur": "off"}
    for view in MultiCrop(view_config(**plain), seed=0)(red, 0, 0):
        assert view.flatten(1).unique(dim=1).flatten().tolist() == [200, 30, 20]
    changed = [MultiCrop(view_config(blur="off"), seed=0)(red, 0, index)[0] for index in range(10)]
    assert any(view[:, 0, 0].tolist() != [200, 30, 20] for view in changed)


def test_views_are_stacked_view_by_view(view_config: Config) -> None:
    crop = MultiCrop(view_config(), seed=0)
    images = [crop(picture(seed=n), 0, n) for n in range(4)]
    large, small = stack_views(images)
    assert large.shape == (8, 3, 32, 32)
    assert small is not None
    assert small.shape == (12, 3, 16, 16)
    assert torch.equal(large[4 + 2], images[2][1])
    assert torch.equal(small[2 * 4 + 3], images[3][4])
    assert stack_views([views[:2] for views in images])[1] is None


def test_pixels_are_normalised_as_preprocess_does() -> None:
    image = picture(16, 16)
    expected = Preprocess(resize=16, crop=16).pixels(image)
    ours = normalised(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])[0]
    assert np.allclose(ours.numpy(), expected, atol=1e-6)


def test_an_image_is_decoded_large_enough_for_its_smallest_crop(view_config: Config) -> None:
    assert MultiCrop(view_config(image_size=224, local_size=96, global_scale=(0.32, 1.0)), 0).cover == 429
