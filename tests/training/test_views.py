from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pictures import picture
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from backbone.preprocess import Preprocess
from training.config import TrainingConfig, section
from training.randomness import seed_of
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


# Every change off, and crops that take the whole of a 32-pixel image: what is switched on alone is seen alone.
STILL = {
    "horizontal_flip": 0.0,
    "color_jitter": 0.0,
    "grayscale": 0.0,
    "solarize": 0.0,
    "blur": "off",
    "global_scale": (1.0, 1.0),
    "local_scale": (1.0, 1.0),
    "local_views": 1,
}
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
DRAWS = 1000
Step = Callable[[torch.Tensor], torch.Tensor]


def still_views(view_config: Config) -> list[torch.Tensor]:
    return MultiCrop(view_config(**STILL), seed=0)(NOISE, 0, 0)


def shares(view_config: Config, **keys: object) -> list[float]:
    """How many draws of the first global, the second global and the local view differ from the still one."""
    crop, still = MultiCrop(view_config(**{**STILL, **keys}), seed=0), still_views(view_config)
    changed = [
        [not torch.equal(view, plain) for view, plain in zip(crop(NOISE, 0, index), still, strict=True)]
        for index in range(DRAWS)
    ]
    return [float(share) for share in np.mean(changed, axis=0)]


def assert_chances(found: list[float], chances: list[float]) -> None:
    """Within five deviations of a share of DRAWS draws; what never or always happens does so in every one."""
    for share, chance in zip(found, chances, strict=True):
        assert abs(share - chance) <= 5 * (chance * (1 - chance) / DRAWS) ** 0.5, (found, chances)


def seen_share_of_blurs(view: torch.Tensor) -> float:
    """A blur of less than about 0.3 pixels rounds to nothing: the share of the deviations from 0.1 to 2 that change the view."""
    deviations = np.linspace(0.1, 2.0, 1901)
    unseen = next(d for d in deviations if not torch.equal(functional.gaussian_blur(view, [9, 9], [d, d]), view))
    return float((2.0 - unseen) / 1.9)


@pytest.mark.parametrize(
    ("blur", "chances"), [("intended", (1.0, 0.1, 0.5)), ("released", (0.0, 0.9, 0.5)), ("off", (0.0, 0.0, 0.0))]
)
def test_views_are_blurred_as_often_as_the_papers_intend_or_as_the_released_weights_saw(
    view_config: Config, blur: str, chances: tuple[float, float, float]
) -> None:
    seen = [seen_share_of_blurs(view) for view in still_views(view_config)]
    expected = [chance * share for chance, share in zip(chances, seen, strict=True)]
    assert min(seen) > 0.85
    assert_chances(shares(view_config, blur=blur), expected)


def test_a_blur_is_torchvisions_with_a_deviation_of_a_tenth_to_two_pixels(view_config: Config) -> None:
    still = still_views(view_config)[0]
    crop = MultiCrop(view_config(**{**STILL, "blur": "intended"}), seed=0)
    deviations = np.linspace(0.1, 2.0, 400)
    blurred = torch.stack([functional.gaussian_blur(still, [9, 9], [d, d]) for d in deviations]).int()
    nearest = []
    for index in range(40):
        errors = (blurred - crop(NOISE, 0, index)[0].int()).abs().amax(dim=(1, 2, 3))
        assert errors.min() <= 1
        nearest.append(deviations[errors.argmin()])
    assert min(nearest) < 0.4
    assert max(nearest) > 1.7


def test_only_the_second_view_is_solarized(view_config: Config) -> None:
    assert_chances(shares(view_config, solarize=0.2), [0.0, 0.2, 0.0])


@pytest.mark.parametrize(("key", "chance"), [("horizontal_flip", 0.5), ("color_jitter", 0.8), ("grayscale", 0.2)])
def test_every_view_is_changed_with_the_given_chance(view_config: Config, key: str, chance: float) -> None:
    assert_chances(shares(view_config, **{key: chance}), [chance] * 3)


@pytest.mark.parametrize(
    ("key", "step", "changed"),
    [
        ("horizontal_flip", functional.horizontal_flip, [True, True, True]),
        ("grayscale", lambda view: functional.rgb_to_grayscale(view, 3), [True, True, True]),
        ("solarize", lambda view: functional.solarize(view, 128), [False, True, False]),
    ],
)
def test_a_change_is_torchvisions(view_config: Config, key: str, step: Step, changed: list[bool]) -> None:
    views = MultiCrop(view_config(**{**STILL, key: 1.0}), seed=0)(NOISE, 0, 0)
    for view, still, is_changed in zip(views, still_views(view_config), changed, strict=True):
        truth = step(still) if is_changed else still
        assert (view.int() - truth.int()).abs().max() <= 1, "Pillow rounds a grey in its own way, by one level at most"


def test_colours_of_all_views_are_jittered_alike_and_by_the_published_strengths(view_config: Config) -> None:
    """LightlySSL's second view does not get the strength that the first one gets."""
    crop = MultiCrop(view_config(**{**STILL, "color_jitter": 1.0}), seed=0)
    colour = Image.new("RGB", (32, 32), (150, 100, 60))
    found = torch.stack([torch.stack([view[:, 0, 0] for view in crop(colour, 0, n)]) for n in range(DRAWS)])
    published = v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = np.array([published(colour).getpixel((0, 0)) for _ in range(DRAWS)])
    for name, measure in MEASURES.items():
        for number in range(3):
            assert ks_2samp(measure(found[:, number].numpy()), measure(expected)).pvalue > 1e-3, (name, number)


def hue(rgb: NDArray[np.generic]) -> NDArray[np.float64]:
    return np.array([colorsys.rgb_to_hsv(*(row / 255))[0] for row in rgb])


# Of colours [N, 3]: each shows another strength of the jitter.
MEASURES = {"brightness": lambda rgb: rgb.mean(axis=1), "saturation": lambda rgb: np.ptp(rgb, axis=1), "hue": hue}


def test_each_view_is_that_of_torchvisions_transforms_in_the_order_of_the_papers(view_config: Config) -> None:
    config = view_config(blur="intended")
    image = picture(50, 40)

    def pipeline(size: int, scale: tuple[float, float], blur: float, solarize: float) -> v2.Compose:
        return v2.Compose(
            [
                v2.RandomResizedCrop(size, scale, interpolation=v2.InterpolationMode.BICUBIC),
                v2.RandomHorizontalFlip(0.5),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
                v2.RandomGrayscale(0.2),
                v2.RandomApply([v2.GaussianBlur(9, (0.1, 2.0))], blur),
                *([v2.RandomSolarize(128, solarize)] if solarize else []),
                v2.PILToTensor(),
            ]
        )

    first = pipeline(32, (0.4, 1.0), 1.0, 0.0)
    second = pipeline(32, (0.4, 1.0), 0.1, 0.2)
    local = pipeline(16, (0.05, 0.4), 0.5, 0.0)
    for index in range(30):
        views = MultiCrop(config, seed=7)(image, epoch=2, index=index)
        for number, transform in enumerate([first, second, local, local, local]):
            with torch.random.fork_rng():
                torch.manual_seed(seed_of("view", 7, 2, index, number))
                assert torch.equal(views[number], transform(image)), (index, number)


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
