"""PNGs with one transparent colour, in every kind that may have one (U16)."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import encoded
from PIL import Image

from backbone.decode import decode

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 11, 13
GREY, COLOUR = 0, 2


def png_of(samples: NDArray[np.int64], bits: int, kind: int, transparent: list[int]) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = samples.reshape(len(samples), -1)
    places = (rows[..., None] >> np.arange(bits)[::-1]) & 1
    packed = [b"\0" + np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in places]
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IDAT", zlib.compress(b"".join(packed))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_u16_one_transparent_grey_is_white_and_no_other(bits: int) -> None:
    grey = RNG.integers(0, 2**bits, (HEIGHT, WIDTH, 1))
    key = int(grey[3, 4, 0]) if bits > 1 else 0
    expected = np.round(grey * 255 / (2**bits - 1))
    expected[grey == key] = 255
    decoded = np.asarray(decode(png_of(grey, bits, GREY, [key])))
    np.testing.assert_array_equal(decoded, np.repeat(expected, 3, axis=2))


@pytest.mark.parametrize("bits", [8, 16])
def test_u16_one_transparent_colour_is_white_and_no_other(bits: int) -> None:
    colour = RNG.integers(0, 2**bits, (HEIGHT, WIDTH, 3))
    colour[3, 5] = colour[3, 4] ^ 1  # the next one, and in its upper 8 of 16 bits the same
    key = colour[3, 4].tolist()
    expected = colour >> (bits - 8)
    expected[3, 4] = 255
    np.testing.assert_array_equal(np.asarray(decode(png_of(colour, bits, COLOUR, key))), expected)


def test_u16_of_a_transparent_value_only_the_bits_of_a_sample_count() -> None:
    grey = np.array([[[0], [1], [2], [3]]])
    assert np.asarray(decode(png_of(grey, 2, GREY, [0x1001])))[0, :, 0].tolist() == [0, 255, 170, 255]
    assert np.asarray(decode(png_of(grey, 8, GREY, [0x1001])))[0, :, 0].tolist() == [0, 255, 2, 3]


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_u16_a_transparent_colour_is_found_in_a_turned_picture(bits: int) -> None:
    for kind, count in ((GREY, 1), (COLOUR, 3)) if bits > 4 else ((GREY, 1),):
        samples = RNG.integers(0, 2**bits, (HEIGHT, WIDTH, count))
        plain = png_of(samples, bits, kind, samples[3, 4].tolist())
        exif = Image.Exif()
        exif[0x0112] = 6
        body = exif.tobytes().removeprefix(b"Exif\x00\x00")
        chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
        turned = plain[:33] + chunk + plain[33:]
        np.testing.assert_array_equal(np.asarray(decode(turned)), np.rot90(np.asarray(decode(plain)), -1))


def test_u16_palettes_and_other_formats_show_white_where_they_are_transparent() -> None:
    colours = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    index = Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)).convert("P")
    index.putpalette(colours.tobytes())
    expected = np.asarray(index.convert("RGB")).copy()
    expected[0, 5] = 255
    for kind in ("PNG", "GIF"):
        np.testing.assert_array_equal(np.asarray(decode(encoded(index, kind, transparency=5))), expected)
    rgba = RNG.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    rgba[..., 3] = np.where(rgba[..., 3] > 99, 255, 0)
    lossless = encoded(Image.fromarray(rgba), "WEBP", lossless=True, exact=True)
    np.testing.assert_array_equal(np.asarray(decode(lossless)), np.where(rgba[..., 3:] > 0, rgba[..., :3], 255))
