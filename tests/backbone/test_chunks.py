"""Floods of chunks: refused by counting headers, where Pillow's parsers take seconds (S08)."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from pictures import encoded, picture
from PIL import Image

from backbone.decode import DecodeLimits, decode
from backbone.errors import TooManyChunks

MOST = DecodeLimits().max_chunks
MUCH = 20_000_000  # bytes of a flood: just within the limit of bytes
SOON_S = 0.5  # of this thread's own time; measured up to 0.16, and 1.2 to 8 where nothing is counted
JPEG, PNG, WEBP = encoded(picture(), "JPEG"), encoded(picture()), encoded(picture(), "WEBP", lossless=True)


def chunk(name: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def in_jpeg(segments: bytes, before: bytes = b"\xff\xdb") -> bytes:
    at = JPEG.index(before)
    return JPEG[:at] + segments + JPEG[at:]


def in_png(chunks: bytes, before: bytes = b"IDAT") -> bytes:
    at = PNG.index(before) - 4
    return PNG[:at] + chunks + PNG[at:]


def in_webp(chunks: bytes) -> bytes:
    header = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"".join((n - 1).to_bytes(3, "little") for n in (48, 40))
    body = b"WEBP" + header + WEBP[12:] + chunks
    return b"RIFF" + struct.pack("<I", len(body)) + body


def metadata_of(image: bytes) -> int:
    """Return how many chunks an image of this page has beside its pixels, by an oracle of its own: the limits it decodes under."""
    for most in range(30):
        try:
            decode(image, DecodeLimits(max_chunks=most))
        except TooManyChunks:
            continue
        return most
    raise AssertionError


def test_s08_the_chunks_of_good_images_are_counted_as_they_are() -> None:
    assert metadata_of(PNG) == 1  # IHDR
    assert metadata_of(WEBP) == 0
    assert metadata_of(JPEG) == 8  # JFIF, 2 tables of quantities, a frame, 4 tables of Huffman codes
    assert metadata_of(in_webp(b"EXIF" + bytes(4))) == 2


ONE_MORE: dict[str, tuple[Callable[[bytes], bytes], bytes]] = {
    "comment": (in_jpeg, b"\xff\xfe\x00\x02"),
    "application": (in_jpeg, b"\xff\xef\x00\x05abc"),
    "marker without length": (in_jpeg, b"\xff\xd0"),
    "64 fill bytes": (lambda fill: in_jpeg(fill + b"\xff\xfe\x00\x02"), b"\xff" * 64),
    "tEXt": (in_png, chunk(b"tEXt", b"a\x00b")),
    "tEXt after the pixels": (lambda chunks: in_png(chunks, b"IEND"), chunk(b"tEXt", b"a\x00b")),
    "unknown": (in_png, chunk(b"a_Aa")),
    "RIFF": (in_webp, b"EXIF\x01\x00\x00\x00a\x00"),
}


@pytest.mark.parametrize("case", ONE_MORE)
def test_s08_the_limit_of_chunks_stands_between_its_two_sides(case: str) -> None:
    inside, one = ONE_MORE[case]
    room = MOST - metadata_of(inside(b""))
    assert decode(inside(one * room)).size == (48, 40)
    with pytest.raises(TooManyChunks, match="more than 1,000 chunks of metadata"):
        decode(inside(one * (room + 1)))


FLOODS = {
    "empty segments": lambda: in_jpeg(b"\xff\xef\x00\x02" * (MUCH // 4)),
    "empty comments": lambda: in_jpeg(b"\xff\xfe\x00\x02" * (MUCH // 4)),
    "empty tables": lambda: in_jpeg(b"\xff\xdb\x00\x02" * (MUCH // 4)),
    "segments shorter than their length": lambda: in_jpeg(b"\xff\xef\x00\x00" * (MUCH // 4)),
    "restart markers": lambda: in_jpeg(b"\xff\xd0" * (MUCH // 2)),
    "escaped bytes": lambda: in_jpeg(b"\xff\x00" * (MUCH // 2)),
    "fill bytes": lambda: in_jpeg(b"\xff" * MUCH),
    "bytes between segments": lambda: in_jpeg(bytes(MUCH)),
    "empty texts": lambda: in_png(chunk(b"tEXt") * (MUCH // 12)),
    "unknown chunks": lambda: in_png(chunk(b"aaAa") * (MUCH // 12)),
    "unknown chunks after the pixels": lambda: in_png(chunk(b"aaAa") * (MUCH // 12), b"IEND"),
    "empty pixels": lambda: in_png(chunk(b"IDAT") * (MUCH // 12)),
    "empty pixels after the pixels": lambda: in_png(chunk(b"IDAT") * (MUCH // 12), b"IEND"),
    "RIFF chunks": lambda: in_webp(b"abcd\x00\x00\x00\x00" * (MUCH // 8)),
}


@pytest.mark.parametrize("case", FLOODS)
def test_s08_a_flood_of_chunks_is_refused_before_it_is_parsed(case: str) -> None:
    flood = FLOODS[case]()
    begun = time.thread_time()
    with pytest.raises(TooManyChunks):
        decode(flood)
    assert time.thread_time() - begun < SOON_S


def test_s08_a_run_of_fill_bytes_between_two_scans_is_read_once() -> None:
    progressive = encoded(picture(), "JPEG", progressive=True)
    at = progressive.rindex(b"\xff\xda")
    flood = progressive[:at] + b"\xff" * MUCH + progressive[at:]
    begun = time.thread_time()
    np.testing.assert_array_equal(decode(flood), decode(progressive))
    assert time.thread_time() - begun < SOON_S


def test_s08_the_limit_of_chunks_of_pixels_grows_with_the_image() -> None:
    def crumbs(count: int) -> bytes:
        return in_png(chunk(b"IDAT") * (count - 1))  # one is there

    most = next(n for n in range(30_000, 31_000) if n + 1 > 30_000 + len(crumbs(n + 1)) // 4096)
    assert decode(crumbs(most)).size == (48, 40)
    with pytest.raises(TooManyChunks, match="too many chunks for its size"):
        decode(crumbs(most + 1))


def test_s08_pixels_of_one_byte_a_chunk_are_decoded() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8))
    whole = encoded(noise)
    (length,) = struct.unpack_from(">I", whole, whole.index(b"IDAT") - 4)
    start = whole.index(b"IDAT") + 4
    ones = b"".join(chunk(b"IDAT", whole[at : at + 1]) for at in range(start, start + length))
    assert length > 10 * MOST
    np.testing.assert_array_equal(decode(whole[: start - 8] + ones + whole[start + length + 4 :]), np.asarray(noise))


@pytest.mark.parametrize("image", [PNG, WEBP], ids=["PNG", "WEBP"])
def test_s08_what_looks_like_chunks_behind_an_image_is_not_counted(image: bytes) -> None:
    assert decode(image + chunk(b"tEXt") * (2 * MOST)).size == (48, 40)
