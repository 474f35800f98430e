"""Ranges of values: 12 bits in 16, and 32 bits, come out as their 8-bit pictures, and an artifact says so (U16)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pictures import encoded
from PIL import Image
from tiffs import tiff_of

from backbone import Artifact, Preprocess
from backbone.decode import DECODE_RULES, decode
from backbone.errors import ArtifactInvalid, UnsupportedMode
from backbone.value_range import ValueRange

TWELVE = ValueRange(0, 4095)
STORED = np.random.default_rng(0).integers(0, 4096, (20, 30, 1))
SHOWN = np.repeat(np.round(STORED * 255 / 4095).astype(np.uint8), 3, axis=2)


@pytest.mark.parametrize(("text", "low", "high"), [("4095", 0, 4095), ("0:4095", 0, 4095), (" -5:7 ", -5, 7)])
def test_u16_a_range_is_read_as_it_is_said(text: str, low: int, high: int) -> None:
    assert ValueRange.of(text) == ValueRange(low, high)
    assert ValueRange.of(str(ValueRange(low, high))) == ValueRange(low, high)


@pytest.mark.parametrize("text", ["", ":", "a", "5:5", "7:3", "0", "0:1:2", "0:99999999999", "1.5"])
def test_u16_what_is_no_range_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="for instance 0:4095"):
        ValueRange.of(text)


FILES = {
    "PNG": encoded(Image.fromarray(STORED[..., 0].astype(np.uint16))),
    "II": tiff_of(STORED, 1, bits=16),
    "MM": tiff_of(STORED, 1, bits=16, order=">"),
    "WhiteIsZero": tiff_of(4095 - STORED, 0, bits=16, order=">"),
    "12 bits, which the file says": tiff_of(STORED, 1, bits=12),
    "signed": tiff_of(STORED, 1, bits=16, sample_format=2),
    "32 bits": tiff_of(STORED, 1, bits=32),
    "float": tiff_of(STORED.astype(np.float32), 1, bits=32, sample_format=3),
}


@pytest.mark.parametrize("case", FILES)
def test_u16_twelve_bits_in_more_show_what_eight_bits_do(case: str) -> None:
    np.testing.assert_array_equal(decode(FILES[case], value_range=TWELVE), SHOWN)


def test_u16_without_a_range_nothing_changes() -> None:
    assert np.asarray(decode(FILES["PNG"])).max() <= 16
    with pytest.raises(UnsupportedMode, match=r"no fixed range.*give the range of its values"):
        decode(FILES["float"])
    eight = encoded(Image.fromarray(SHOWN))
    np.testing.assert_array_equal(decode(eight, value_range=TWELVE), SHOWN)


def test_u16_values_beyond_the_range_are_black_and_white() -> None:
    data = tiff_of(np.array([[[0], [100], [200], [60_000]]]), 1, bits=16)
    assert np.asarray(decode(data, value_range=ValueRange(100, 200)))[0, :, 0].tolist() == [0, 0, 255, 255]
    holes = tiff_of(np.array([[[np.nan], [np.inf], [-np.inf], [150.0]]], np.float32), 1, bits=32, sample_format=3)
    assert np.asarray(decode(holes, value_range=ValueRange(100, 200)))[0, :, 0].tolist() == [0, 255, 0, 128]


def test_u16_a_range_of_all_32_bits_holds_for_16_too_whatever_their_white() -> None:
    wide = ValueRange(0, 2**32 - 1)
    assert decode(FILES["MM"], value_range=wide).getextrema() == ((0, 0),) * 3
    assert decode(FILES["WhiteIsZero"], value_range=wide).getextrema() == ((255, 255),) * 3


def test_u16_a_range_is_a_rule_of_decoding_only_where_it_is_given() -> None:
    plain, given = Preprocess.for_image_size(32), Preprocess.for_image_size(32, TWELVE)
    assert plain.to_dict()["decode"] == DECODE_RULES
    assert "value_range" not in plain.to_dict()
    assert given.to_dict()["decode"] == {**DECODE_RULES, "value_range": {"low": 0, "high": 4095}}
    for each in (plain, given):
        assert Preprocess.from_dict(each.to_dict()) == each
    for wrong in ({"low": 5, "high": 5}, {"low": 0}, {"low": "0", "high": 9}, 3):
        with pytest.raises(ArtifactInvalid):
            Preprocess.from_dict({**plain.to_dict(), "decode": {**DECODE_RULES, "value_range": wrong}})
    np.testing.assert_array_equal(given(FILES["PNG"]), plain(encoded(Image.fromarray(SHOWN))))


def test_u16_an_artifact_with_another_range_is_another_model(tiny_artifact: Artifact) -> None:
    given = replace(tiny_artifact, value_range=TWELVE)
    assert given.preprocess == replace(tiny_artifact.preprocess, value_range=TWELVE)
    assert given.fingerprint != tiny_artifact.fingerprint
    assert given.fingerprint_for("patches") != tiny_artifact.fingerprint_for("patches")
    assert replace(given, value_range=None).fingerprint == tiny_artifact.fingerprint
