from __future__ import annotations

import io
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from colours import COLOURS
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, picture, png_of
from PIL import Image

from backbone.decode import ALL_FORMATS, SERVICE_FORMATS, DecodeLimits, decode, resized_size
from backbone.errors import (
    CorruptImage,
    EmptyImage,
    ImageRefused,
    ImageTooSmall,
    TooManyBytes,
    TooManyPixels,
    TooManyScans,
    UnsupportedImageType,
    UnsupportedMode,
)


@pytest.mark.parametrize("kind", ALL_FORMATS)
def test_every_format_decodes_to_rgb_of_its_size(kind: str) -> None:
    image = decode(encoded(picture(31, 17), kind))
    assert (image.mode, image.size) == ("RGB", (31, 17))


def test_pillow_s_warnings_are_ignored_from_an_image_on_and_nobody_else_s() -> None:
    for _ in range(2):  # the first block takes its filter with it when it is left
        with warnings.catch_warnings(record=True) as heard:
            warnings.resetwarnings()
            warnings.simplefilter("always")
            decode(encoded(picture()))
            decode(encoded(picture()))
            warnings.warn_explicit("odd metadata", UserWarning, "TiffImagePlugin.py", 1, module="PIL.TiffImagePlugin")
            warnings.warn_explicit("mind this", UserWarning, "other.py", 1, module="other")
            filters = len(warnings.filters)
        assert [str(each.message) for each in heard] == ["mind this"]
        assert filters == 2


def test_an_import_leaves_the_warnings_of_a_process_as_they_are() -> None:
    ask = "import warnings, PIL.Image, numpy, PIL.ImageOps\nbefore = warnings.filters[:]\n"
    ask += "import backbone.decode\nassert warnings.filters == before, warnings.filters"
    subprocess.run([sys.executable, "-c", ask], check=True)


def test_formats_outside_the_limits_are_refused_by_their_first_bytes() -> None:
    strict = DecodeLimits(formats=SERVICE_FORMATS)
    for kind in set(ALL_FORMATS) - set(SERVICE_FORMATS):
        with pytest.raises(UnsupportedImageType, match="JPEG, PNG, WEBP"):
            decode(encoded(picture(), kind), strict)


@pytest.mark.parametrize("data", [b"%PDF-1.7 text", b"<svg></svg>", b"PK\x03\x04zip", b"%!PS-Adobe", b"\x80\x04pickle"])
def test_what_is_no_image_is_refused_without_a_parser(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(UnsupportedImageType):
        decode(data)


@pytest.mark.parametrize("data", [b"", b"  \n"])
def test_nothing_is_called_nothing(data: bytes) -> None:
    with pytest.raises(EmptyImage):
        decode(data)


def test_the_byte_limit_stands_between_its_two_sides() -> None:
    data = encoded(picture())
    assert decode(data, DecodeLimits(max_bytes=len(data))).size == (48, 40)
    with pytest.raises(TooManyBytes):
        decode(data, DecodeLimits(max_bytes=len(data) - 1))


def test_the_pixel_and_side_limits_stand_between_their_two_sides() -> None:
    data = encoded(picture(48, 40))
    assert decode(data, DecodeLimits(max_pixels=48 * 40, max_side=48)).size == (48, 40)
    for limits in (DecodeLimits(max_pixels=48 * 40 - 1), DecodeLimits(max_side=47)):
        with pytest.raises(TooManyPixels, match="48 x 40"):
            decode(data, limits)


def test_the_narrowness_limit_stands_between_its_two_sides() -> None:
    assert decode(png_of(100, 1)).size == (100, 1)
    with pytest.raises(ImageTooSmall):
        decode(png_of(101, 1))


def test_a_bomb_of_169_megapixels_in_20_kilobytes_is_refused_in_milliseconds() -> None:
    bomb = png_of(13_000, 13_000)
    assert len(bomb) < 21_000
    start = time.perf_counter()
    with pytest.raises(TooManyPixels):
        decode(bomb)
    assert time.perf_counter() - start < 0.1


def test_a_scan_bomb_is_refused_before_it_is_decoded() -> None:
    good = encoded(picture(64, 64), "JPEG", progressive=True)
    scans = good.count(b"\xff\xda")
    assert decode(good, DecodeLimits(max_scans=scans)).size == (64, 64)
    with pytest.raises(TooManyScans):
        decode(good, DecodeLimits(max_scans=scans - 1))


@pytest.mark.parametrize("progressive", [False, True])
def test_the_emptiest_jpeg_is_decoded_and_one_that_says_it_is_larger_is_not(progressive: bool) -> None:
    flat = bytearray(encoded(Image.new("L", (4000, 4000)), "JPEG", optimize=True, progressive=progressive))
    assert decode(bytes(flat)).size == (4000, 4000)
    at = flat.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    flat[at : at + 4] = b"\x4e\x20\x09\xc4"  # 20,000 x 2,500: within the limits
    small = bytes(flat[: flat.index(b"\xff\xda") + 2000]) + b"\xff\xd9"
    with pytest.raises(CorruptImage, match="too few bytes"):
        decode(small)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_image_is_refused_and_never_filled(kind: str) -> None:
    data = encoded(picture(200, 150), kind)
    for sixteenth in range(1, 15):
        with pytest.raises(ImageRefused):
            decode(data[: len(data) * sixteenth // 16])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2), st.data())
def test_damaged_bytes_end_as_an_image_or_a_refusal_and_nothing_else(which: int, data: st.DataObject) -> None:
    good = bytearray(encoded(picture(40, 30), ("JPEG", "PNG", "WEBP")[which]))
    for _ in range(data.draw(st.integers(1, 8))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode(bytes(good))
    except ImageRefused:
        return
    assert image.mode == "RGB"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    upright = picture(40, 24)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the Pillow transpose that a camera with this tag has applied
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(stored, "PNG", exif=exif))
    assert np.array_equal(np.asarray(decoded), np.asarray(upright))


def test_a_malformed_exif_block_does_not_cost_the_image() -> None:
    data = encoded(picture(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert decode(data).size == (48, 40)


def test_transparency_is_composited_over_white() -> None:
    clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    half = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    assert decode(encoded(clear)).getpixel((0, 0)) == (255, 255, 255)
    assert decode(encoded(half)).getpixel((0, 0)) == (127, 127, 127)
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([9, 9, 9])
    assert decode(encoded(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    decoded = np.asarray(decode(encoded(Image.fromarray(values))))
    assert decoded[0, :, 0].tolist() == [0, 1, 128, 255]
    assert (decoded[..., 0] == decoded[..., 1]).all()


def test_cmyk_black_and_white_come_out_as_such() -> None:
    for cmyk, rgb in (((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0)):
        decoded = decode(encoded(Image.new("CMYK", (16, 16), cmyk), "JPEG", quality=95))
        assert decoded.mode == "RGB"
        assert abs(decoded.getpixel((8, 8))[0] - rgb) <= 2


@pytest.mark.parametrize("mode", COLOURS)
def test_s11_a_known_colour_comes_out_as_the_rules_say(mode: str) -> None:
    make, rgb = COLOURS[mode]
    pixels = np.asarray(decode(make())).reshape(-1, 3)
    assert np.unique(pixels, axis=0).tolist() == [list(rgb)]


def test_floats_are_refused_with_a_reason() -> None:
    with pytest.raises(UnsupportedMode, match="mode F"):
        decode(encoded(Image.fromarray(np.zeros((4, 4), dtype=np.float32)), "TIFF"))


def test_of_an_animation_the_first_frame_is_taken() -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    data = encoded(first, "WEBP", save_all=True, append_images=[second], lossless=True)
    assert decode(data).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(("side", "scale"), [(1024, 4), (1023, 3), (512, 2), (511, 1)])
def test_a_large_jpeg_is_decoded_at_the_smallest_scale_that_covers_the_resize(side: int, scale: int) -> None:
    decoded = decode(encoded(picture(side * 2, side), "JPEG"), cover=256)
    expected = {4: side // 4, 3: -(-side // 2), 2: side // 2, 1: side}[scale]
    assert decoded.size[1] == expected


def test_the_resize_keeps_the_shape_and_truncates_the_long_side() -> None:
    assert resized_size((500, 375), 256) == (341, 256)
    assert resized_size((375, 500), 256) == (256, 341)
    assert resized_size((7, 7), 3) == (3, 3)


def test_a_refusal_names_no_path_of_this_machine() -> None:
    with pytest.raises(CorruptImage) as refusal:
        decode(encoded(picture(), "PNG")[:60])
    assert "/" not in str(refusal.value).split("(")[1]


def test_trailing_bytes_do_not_matter() -> None:
    data = encoded(picture(), "JPEG")
    assert np.array_equal(np.asarray(decode(data)), np.asarray(decode(data + b"PK\x03\x04 and more")))
    assert isinstance(decode(io.BytesIO(data).getvalue()), Image.Image)
