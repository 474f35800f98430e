"""TIFFs of one picture in every kind: pairs that must give equal pixels (U16)."""

from __future__ import annotations

import struct
import time

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import encoded, picture
from PIL import Image
from tiffs import DEFLATE, PACKBITS, UNCOMPRESSED, tiff_of

from backbone.decode import DecodeLimits, decode
from backbone.errors import CorruptImage, ImageRefused, TooManyChunks, TooManyPixels, UnsupportedMode
from backbone.tiff import readable

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 13, 17
ORDERS = {"II": "<", "MM": ">"}
PACKED = {"uncompressed": UNCOMPRESSED, "deflate": DEFLATE, "packbits": PACKBITS}

Pixels = NDArray[np.int64]


def values(bits: int, count: int) -> Pixels:
    return RNG.integers(0, 2**bits, (HEIGHT, WIDTH, count))


def shown(samples: Pixels, bits: int) -> Pixels:
    """Return what 8 bits show of samples, three channels of it."""
    scaled = np.round(samples * 255 / (2**bits - 1)).astype(np.int64)
    return np.repeat(scaled, 3, axis=2) if samples.shape[2] == 1 else scaled


def over_white(colour: Pixels, alpha: Pixels, bits: int) -> NDArray[np.float64]:
    part = alpha / (2**bits - 1)
    return colour * part + 255 * (1 - part)


def differences(samples: Pixels, columns: int) -> Pixels:
    """Return what a predictor stores of 16-bit samples, in parts of so many columns."""
    before = np.roll(samples, 1, axis=1)
    before[:, ::columns] = 0
    return (samples - before) % 2**16


def assert_shows(tiff: bytes, expected: NDArray[np.generic], within: float = 0) -> None:
    assert np.abs(np.asarray(decode(tiff)).astype(float) - expected).max() <= within


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_u16_grey_of_any_bits_order_and_white_shows_its_brightness(bits: int, order: str, packed: str) -> None:
    grey = values(bits, 1)
    for big in (False, True):
        form = {"bits": bits, "order": ORDERS[order], "compression": PACKED[packed], "big": big}
        assert_shows(tiff_of(grey, 1, **form), shown(grey, bits))
        assert_shows(tiff_of(2**bits - 1 - grey, 0, **form), shown(grey, bits))
        assert_shows(tiff_of(grey, 1, **form, rows_per_strip=5), shown(grey, bits))


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("packed", PACKED)
def test_u16_grey_with_alpha_is_composited_over_white(packed: str, order: str, bits: int, photometric: int) -> None:
    grey, alpha = values(bits, 1), values(bits, 1)
    stored = grey if photometric else 2**bits - 1 - grey
    form = {"bits": bits, "order": ORDERS[order], "compression": PACKED[packed]}
    both = np.concatenate([stored, alpha], axis=2)
    assert_shows(tiff_of(both, photometric, extra=(2,), **form), over_white(shown(grey, bits), alpha, bits), 1.6)
    assert_shows(tiff_of(both, photometric, extra=(0,), **form), shown(grey, bits))  # what it is, nobody says
    if photometric == 1:
        premultiplied = np.concatenate([np.minimum(grey, alpha), alpha], axis=2)
        expected = over_white(np.zeros_like(alpha), alpha, bits) + shown(np.minimum(grey, alpha), bits)
        assert_shows(tiff_of(premultiplied, 1, extra=(1,), **form), expected, 3)


@pytest.mark.parametrize("planar", [False, True], ids=["pixels", "planes"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("packed", PACKED)
def test_u16_colour_of_any_bits_order_and_planes_shows_its_colour(
    packed: str, order: str, bits: int, planar: bool
) -> None:
    rgb, alpha, inks = values(bits, 3), values(bits, 1), values(bits, 4)
    for big, rows in ((False, 0), (True, 0), (False, 5)):
        form = {"bits": bits, "order": ORDERS[order], "compression": PACKED[packed], "planar": planar}
        form |= {"big": big, "rows_per_strip": rows}
        assert_shows(tiff_of(rgb, 2, **form), shown(rgb, bits), 1)  # Pillow cuts 16 bits of colour to the upper 8
        four = np.concatenate([rgb, alpha], axis=2)
        assert_shows(tiff_of(four, 2, extra=(2,), **form), over_white(shown(rgb, bits), alpha, bits), 3)
        assert_shows(tiff_of(four, 2, extra=(0,), **form), shown(rgb, bits), 1)
        low = np.minimum(rgb, alpha)
        premultiplied = np.concatenate([low, alpha], axis=2)
        expected = over_white(np.zeros_like(alpha), alpha, bits) + shown(low, bits)
        assert_shows(tiff_of(premultiplied, 2, extra=(1,), **form), expected, 3)
        free = 1 - inks / (2**bits - 1)
        assert_shows(tiff_of(inks, 5, **form), 255 * free[..., :3] * free[..., 3:], 2)


@pytest.mark.parametrize("tile", [0, 16], ids=["strips", "tiles"])
@pytest.mark.parametrize("packed", ["uncompressed", "deflate"])
@pytest.mark.parametrize("bits", [8, 16])
def test_u16_planes_of_every_kind_are_read_in_strips_and_tiles(bits: int, packed: str, tile: int) -> None:
    grey, rgb, alpha = values(bits, 1), values(bits, 3), values(bits, 1)
    for order in "<>":
        form = {"bits": bits, "order": order, "compression": PACKED[packed], "planar": True, "tile": tile}
        four = np.concatenate([rgb, alpha], axis=2)
        assert_shows(tiff_of(rgb, 2, **form), shown(rgb, bits), 1)
        assert_shows(tiff_of(four, 2, extra=(2,), **form), over_white(shown(rgb, bits), alpha, bits), 3)
        both = np.concatenate([grey, alpha], axis=2)
        assert_shows(tiff_of(both, 1, extra=(2,), **form), over_white(shown(grey, bits), alpha, bits), 3)
        assert_shows(tiff_of(both, 1, extra=(0,), **form), shown(grey, bits), 1)
        both = np.concatenate([2**bits - 1 - grey, alpha], axis=2)
        assert_shows(tiff_of(both, 0, extra=(2,), **form), over_white(shown(grey, bits), alpha, bits), 3)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("tile", [0, 16], ids=["strips", "tiles"])
@pytest.mark.parametrize("order", ORDERS)
def test_u16_grey_with_alpha_is_read_behind_a_predictor(order: str, tile: int, orientation: int) -> None:
    grey, alpha = values(16, 1), values(16, 1)
    stored = differences(np.concatenate([grey, alpha], axis=2), tile or WIDTH)
    tags = {274: (3, [orientation]), 317: (3, [2])}
    form = {"bits": 16, "order": ORDERS[order], "compression": DEFLATE, "tile": tile, "extra": (2,)}
    expected = over_white(shown(grey, 16), alpha, 16)
    assert_shows(tiff_of(stored, 1, tags=tags, **form), expected if orientation == 1 else np.rot90(expected, -1), 1.6)


@pytest.mark.parametrize("order", ORDERS)
def test_u16_a_predictor_of_what_is_not_compressed_means_nothing(order: str) -> None:
    rgb = values(16, 3)
    form = {"bits": 16, "order": ORDERS[order], "tags": {317: (3, [2])}}
    assert_shows(tiff_of(rgb, 2, planar=True, **form), shown(rgb, 16), 1)
    assert_shows(tiff_of(rgb, 2, **form), shown(rgb, 16), 1)


@pytest.mark.parametrize("across_and_down", [(1, 1), (2, 1), (2, 2), (4, 4)])
def test_u16_ycbcr_of_fewer_colours_than_pixels_is_read_uncompressed_whatever_follows(
    across_and_down: tuple[int, int],
) -> None:
    across, down = across_and_down
    height, width = 16, 16
    luma = RNG.integers(0, 256, (height, width))
    blocks = luma.reshape(height // down, down, width // across, across).transpose(0, 2, 1, 3)
    grey = np.full((*blocks.shape[:2], 2), 128)
    pixels = np.concatenate([blocks.reshape(*grey.shape[:2], -1), grey], axis=2).astype(np.uint8).tobytes()
    tags = {257: (4, [height]), 256: (4, [width]), 258: (3, [8] * 3), 277: (3, [3]), 278: (4, [height])}
    stored = tiff_of(np.frombuffer(pixels, np.uint8).reshape(1, -1, 1), 6, tags={**tags, 530: (3, [across, down])})
    for tiff in (stored, stored + bytes(5000)):
        assert_shows(tiff, np.repeat(luma[..., None], 3, axis=2), 1)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("order", ORDERS)
def test_u16_palettes_ycbcr_and_lab_are_read_in_both_orders(order: str, bits: int) -> None:
    palette, index = RNG.integers(0, 256, (3, 2**bits)), values(bits, 1)
    for big in (False, True):
        form = {"order": ORDERS[order], "big": big}
        colours = {320: (3, (palette * 257).ravel().tolist())}
        assert_shows(tiff_of(index, 3, bits=bits, tags=colours, **form), palette[:, index[..., 0]].transpose(1, 2, 0))
    rgb = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    luma = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    for planar in (False, True):
        assert_shows(tiff_of(luma, 6, planar=planar, tags={530: (3, (1, 1))}, order=ORDERS[order]), rgb, 3)
    grey = np.array([[[50 * 255 // 100, 0, 0]]])  # no colour: a* and b* are 0
    assert_shows(tiff_of(grey, 8, order=ORDERS[order]), np.full((1, 1, 3), 118), 3)


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_u16_bits_that_are_stored_the_other_way_round_are_turned(bits: int) -> None:
    for order in "<>":
        grey = values(bits, 1)
        assert_shows(tiff_of(grey, 1, bits=bits, order=order, fill_order=2), shown(grey, bits))
        assert_shows(tiff_of(2**bits - 1 - grey, 0, bits=bits, order=order, fill_order=2), shown(grey, bits))


def test_u16_orientation_and_jpeg_survive_a_bigtiff() -> None:
    grey = values(16, 1)
    turned = tiff_of(grey, 1, bits=16, order=">", big=True, tags={274: (3, [6])})
    assert_shows(turned, np.rot90(shown(grey, 16), -1))
    turned = tiff_of(65_535 - grey, 0, bits=16, tags={274: (3, [3])})
    assert_shows(turned, shown(grey, 16)[::-1, ::-1])


UNREADABLE = {
    "RGB, unsigned, of 12, 12, 12 bits": tiff_of(values(12, 3), 2, bits=12),
    "RGB, unsigned, of 32, 32, 32 bits": tiff_of(values(32, 3), 2, bits=32, order=">"),
    "RGB, float, of 32, 32, 32 bits": tiff_of(RNG.random((4, 4, 3), np.float32), 2, bits=32, sample_format=3),
    "BlackIsZero, float, of 16 bits": tiff_of(np.zeros((4, 4, 1), np.float16), 1, bits=16, sample_format=3),
    "BlackIsZero, float, of 64 bits": tiff_of(np.zeros((4, 4, 1)), 1, bits=64, sample_format=3),
    "WhiteIsZero, unsigned, of 32 bits": tiff_of(values(32, 1), 0, bits=32),
    "BlackIsZero, signed, of 8 bits": tiff_of(np.full((4, 4, 1), -7), 1, sample_format=2),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_u16_what_cannot_be_read_is_refused_by_its_name_with_what_to_do(name: str) -> None:
    with pytest.raises(UnsupportedMode, match=f"{name}.*convert it to"):
        decode(UNREADABLE[name])


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("bits", [12, 16])
def test_u16_a_cut_tiff_is_whole_or_refused_and_never_filled(bits: int, big: bool) -> None:
    for planar in (False, True):
        whole = tiff_of(values(bits, 3 if planar else 1), 2 if planar else 0, bits=bits, big=big, planar=planar)
        if planar and bits == 12:
            continue
        # The directory stands behind the pixels, and may lose what it can do without
        for size in range(0, len(whole), 7):
            try:
                cut = decode(whole[:size])
            except ImageRefused:
                continue
            np.testing.assert_array_equal(cut, decode(whole))
    with pytest.raises(CorruptImage):
        decode(tiff_of(values(16, 3), 2, bits=16, planar=True, tags={279: (4, [4, 4, 4])}))


@pytest.mark.parametrize("big", [False, True])
def test_u16_pixels_that_end_with_the_file_go_on_in_nothing(big: bool) -> None:
    both = values(16, 2)
    for samples, photometric, extra in ((both[..., :1], 0, ()), (both, 1, (2,)), (values(16, 3), 2, ())):
        form = {"bits": 16, "big": big, "planar": samples.shape[2] == 3, "extra": extra}
        whole = tiff_of(samples, photometric, **form)
        count = 3 if form["planar"] else 1
        behind = tiff_of(samples, photometric, **form, tags={273: (4, [len(whole)] * count)})
        start, length = 16 if big else 8, 2 * samples.size // count
        decode(behind + whole[start:][:length])
        with pytest.raises(CorruptImage):
            decode(behind + whole[start:][: length - 20])


def test_s02_u16_a_tiff_that_is_cut_off_anywhere_is_corrupt_and_of_no_unknown_kind() -> None:
    for whole in (
        *(encoded(picture(), "TIFF", compression=packed) for packed in ("raw", "tiff_lzw", "jpeg", "packbits")),
        tiff_of(values(16, 3), 2, bits=16, planar=True),
    ):
        for size in range(8, len(whole) - 8, max(1, len(whole) // 50)):
            try:
                decode(whole[:size])
            except CorruptImage:
                continue


@pytest.mark.parametrize(("number", "name"), [(34712, "JPEG 2000"), (50002, "JPEG XL"), (7777, "kind 7777")])
def test_u16_a_compression_that_is_not_read_is_named(number: int, name: str) -> None:
    with pytest.raises(UnsupportedMode, match=f"the TIFF's compression is {name}, which is not read"):
        decode(tiff_of(values(8, 3), 2, tags={259: (3, [number])}))


def test_s08_u16_strips_and_tags_are_counted_before_they_are_read() -> None:
    room = b"\0" * 500_000
    for tag in (273, 279, 324, 325, 258):
        for big in (False, True):
            begun = time.thread_time()
            with pytest.raises(TooManyChunks, match="more than 100,000 pieces"):
                decode(tiff_of(values(8, 1), 1, big=big, tags={tag: (4, [8] * 100_001)}) + room)
            assert time.thread_time() - begun < 0.5  # most of it is the making
    assert readable(tiff_of(values(8, 1), 1, tags={273: (4, [8] * 100_000)}), 1000).name
    plain = len({256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 339})
    tags = {700 + index: (3, [0]) for index in range(1000 - plain)}
    assert_shows(tiff_of(np.full((4, 4, 1), 7), 1, tags=tags), np.full((4, 4, 3), 7))
    with pytest.raises(TooManyChunks, match="more than 1,000 tags"):
        decode(tiff_of(values(8, 1), 1, tags={**tags, 65_000: (3, [0])}))


@pytest.mark.parametrize("side", [322, 323])
def test_s06_u16_a_tile_far_larger_than_its_picture_is_not_made_room_for(side: int) -> None:
    lie = {322: (4, [16]), 323: (4, [16]), 324: (4, [8]), side: (4, [60_000_000])}
    begun = time.thread_time()
    with pytest.raises(CorruptImage, match="not where its directory says"):
        decode(tiff_of(values(16, 1), 1, bits=16, compression=DEFLATE, tags=lie))
    assert time.thread_time() - begun < 0.02


def test_u16_a_tile_may_be_larger_than_its_picture() -> None:
    grey = values(16, 1)
    assert_shows(tiff_of(grey, 1, bits=16, compression=DEFLATE, tile=512), shown(grey, 16))
    assert_shows(tiff_of(grey, 1, bits=16, tile=2048), shown(grey, 16))


def test_u16_a_bigtiff_keeps_the_limits() -> None:
    whole = tiff_of(values(8, 1), 1, big=True)
    with pytest.raises(TooManyPixels):
        decode(whole, DecodeLimits(max_pixels=HEIGHT * WIDTH - 1))


def test_s08_u16_a_directory_that_points_at_much_many_times_is_soon_left_alone() -> None:
    size = 20_000_000
    entries = b"".join(struct.pack("<HHII", tag, 1, size - 600, 8) for tag in (273, 279, 320, 324, 325, 347) * 8)
    flood = b"II*\x00" + struct.pack("<I", size - 590) + bytes(size - 598) + struct.pack("<H", 48) + entries + bytes(4)
    begun = time.thread_time()
    with pytest.raises(ImageRefused):
        decode(flood)
    assert time.thread_time() - begun < 0.5


def test_u16_a_tiff_that_pillow_reads_right_is_given_to_it_as_it_is() -> None:
    for data in (
        encoded(picture(), "TIFF"),
        encoded(picture(), "TIFF", compression="jpeg"),
        tiff_of(values(16, 1), 1, bits=16),
    ):
        np.testing.assert_array_equal(np.asarray(decode(data)).shape[2], 3)
    assert_shows(encoded(picture(), "TIFF"), np.asarray(picture()))
