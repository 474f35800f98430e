from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, picture
from torchvision.transforms import v2

from backbone.errors import ArtifactInvalid
from backbone.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess


@settings(max_examples=40, deadline=None)
@given(width=st.integers(20, 400), height=st.integers(20, 400), crop=st.sampled_from([28, 64, 96, 224]))
def test_the_pixels_are_those_of_torchvision_on_pillow_images(width: int, height: int, crop: int) -> None:
    preprocess = Preprocess.for_image_size(crop)
    oracle = v2.Compose(
        [
            v2.Resize(preprocess.resize, interpolation=v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(preprocess.crop),
            v2.PILToTensor(),
        ]
    )
    image = picture(width, height, seed=width * height)
    expected = oracle(image).numpy().astype(np.float32) / 255
    expected = (expected - np.float32(IMAGENET_MEAN)[:, None, None]) / np.float32(IMAGENET_STD)[:, None, None]
    np.testing.assert_allclose(preprocess.pixels(image), expected, rtol=0, atol=1e-6)


def test_bytes_and_pixels_of_one_image_give_the_same_input() -> None:
    preprocess, image = Preprocess.for_image_size(32), picture(50, 60)
    prepared = preprocess(encoded(image))
    assert prepared.shape == (3, 32, 32)
    assert prepared.dtype == np.float32
    assert np.array_equal(prepared, preprocess.pixels(image))


def test_small_images_keep_their_borders_and_large_ones_get_the_field_s_crop() -> None:
    assert (Preprocess.for_image_size(64).resize, Preprocess.for_image_size(65).resize) == (64, 74)
    assert Preprocess.for_image_size(224).resize == 256


def test_preprocess_survives_the_way_through_json() -> None:
    preprocess = Preprocess.for_image_size(98)
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess


@pytest.mark.parametrize(
    "change",
    [
        {"decode": {"version": 2}},
        {"interpolation": "nearest"},
        {"antialias": False},
        {"crop": 0},
        {"crop": 99},
        {"unknown": 1},
        {"mean": None},
    ],
)
def test_a_preprocess_that_is_not_built_in_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ArtifactInvalid):
        Preprocess.from_dict({**Preprocess.for_image_size(98).to_dict(), "resize": 98, **change})
