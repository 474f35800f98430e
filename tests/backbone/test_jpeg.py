"""What is inside of a JPEG and what is not: marker-like bytes in segments and behind the end of image (U15)."""

from __future__ import annotations

import base64
import io
import struct
import time
from collections.abc import Callable

import numpy as np
import pytest
from pictures import encoded, picture
from PIL import Image

from backbone.decode import DecodeLimits, decode
from backbone.errors import CorruptImage, ImageRefused, TooManyChunks, TooManyScans
from backbone.jpeg import outline

SCAN, END = b"\xff\xda", b"\xff\xd9"
PLAIN = encoded(picture(), "JPEG")
PROGRESSIVE = encoded(picture(), "JPEG", progressive=True)
SCANS = PROGRESSIVE.count(SCAN)
PREVIEW = encoded(picture(32, 24), "JPEG", progressive=True)
MUCH = 20_000_000  # bytes of a flood: just within the limit of bytes
SOON_S = 0.1  # of this thread's own time; measured up to 0.02, and 0.3 to 1 where each 0xFF is looked at by itself


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def with_segments(image: bytes, segments: bytes) -> bytes:
    return image[:2] + segments + image[2:]


def before_last_scan(image: bytes, segments: bytes) -> bytes:
    at = image.rindex(SCAN)
    return image[:at] + segments + image[at:]


# A fake video: the bytes of a scan's start turn up in it as often as in 9 MB of noise.
VIDEO = b"\x00\x00\x00\x18ftypmp42" + (bytes(60_000) + SCAN) * 136
SCANS_THAT_ARE_NONE: dict[str, tuple[bytes, bytes]] = {
    "a motion photo": (PLAIN + VIDEO, PLAIN),
    "a progressive motion photo": (PROGRESSIVE + VIDEO, PROGRESSIVE),
    "previews behind the picture": (PLAIN + PREVIEW * 120, PLAIN),
    "segments of a thermal camera": (with_segments(PLAIN, segment(0xE3, (SCAN + b"\x12") * 20_000) * 130), PLAIN),
    "a comment with an end of image": (with_segments(PLAIN, segment(0xFE, END + SCAN * 200)), PLAIN),
    "a comment between scans": (before_last_scan(PROGRESSIVE, segment(0xFE, END + SCAN * 200)), PROGRESSIVE),
    "thumbnails with scans of their own": (with_segments(PLAIN, segment(0xE1, PREVIEW) * 40), PLAIN),
    "tables between scans": (before_last_scan(PROGRESSIVE, segment(0xE0, SCAN * 300)), PROGRESSIVE),
}


@pytest.mark.parametrize("case", SCANS_THAT_ARE_NONE)
def test_u15_bytes_that_only_look_like_scans_are_none(case: str) -> None:
    odd, same = SCANS_THAT_ARE_NONE[case]
    assert odd.count(SCAN) > DecodeLimits().max_scans
    np.testing.assert_array_equal(decode(odd), decode(same))


@pytest.mark.parametrize("preview", [b"", PREVIEW * 3, VIDEO])
def test_u15_an_image_ends_where_libjpeg_stops_reading_it(preview: bytes) -> None:
    assert outline(PROGRESSIVE + preview, 100, 1000).end == len(PROGRESSIVE)
    half = PROGRESSIVE[: PROGRESSIVE.rindex(SCAN)] + END
    assert outline(half + PROGRESSIVE[PROGRESSIVE.rindex(SCAN) :], 100, 1000).end == len(half)
    # A bomb behind a false end is never decoded, so that it need not be counted.
    np.testing.assert_array_equal(decode(half + PROGRESSIVE[PROGRESSIVE.index(SCAN) :] * 400), decode(half))


BOMBS: dict[str, Callable[[bytes], bytes]] = {
    "bare": lambda scans: PROGRESSIVE[:-2] + scans + END,
    "behind a comment with an end in it": lambda scans: PROGRESSIVE[:-2] + segment(0xFE, END * 99) + scans + END,
    "behind a segment that says zero": lambda scans: PROGRESSIVE[:-2] + b"\xff\xe1\x00\x00" + scans + END,
    "behind fill bytes": lambda scans: PROGRESSIVE[:-2] + b"\xff" * 9999 + scans + END,
    "behind restart markers": lambda scans: PROGRESSIVE[:-2] + b"\xff\xd0\xff\xd7" * 99 + scans + END,
    "behind escaped ends": lambda scans: PROGRESSIVE[:-2] + b"\xff\x00\xd9" * 99 + b"\xff\xff\x00" + scans + END,
    "behind stray bytes": lambda scans: PROGRESSIVE[:-2] + bytes(9999) + scans + END,
    "with a preview behind": lambda scans: PROGRESSIVE[:-2] + scans + END + PREVIEW,
}


@pytest.mark.parametrize("case", BOMBS)
def test_s07_u15_a_bomb_of_scans_is_refused_however_it_is_wrapped(case: str) -> None:
    start = PROGRESSIVE.rindex(SCAN)
    scan = PROGRESSIVE[start : start + 2 + struct.unpack_from(">H", PROGRESSIVE, start + 2)[0]]
    for count, refused in ((100 - SCANS, False), (101 - SCANS, True)):
        bomb = BOMBS[case](scan * count)
        begun = time.thread_time()
        if refused:
            with pytest.raises(TooManyScans, match="more than 100 scans"):
                decode(bomb)
            assert time.thread_time() - begun < 0.01
        else:
            outline(bomb, 100, 1000)


FLOODS: dict[str, Callable[[], bytes]] = {
    "fill bytes": lambda: b"\xff" * MUCH,
    "escaped bytes": lambda: b"\xff\x00" * (MUCH // 2),
    "restart markers": lambda: b"\xff\xd0" * (MUCH // 2),
    "reserved markers": lambda: b"\xff\x02" * (MUCH // 2),
    "bytes of no meaning": lambda: bytes(MUCH),
    "one byte before each marker": lambda: b"\x00\xff\xfe\x00\x02" * (MUCH // 5),
    "empty segments": lambda: b"\xff\xfe\x00\x02" * (MUCH // 4),
    "segments shorter than their length": lambda: b"\xff\xe1\x00\x00" * (MUCH // 4),
}


@pytest.mark.parametrize("case", FLOODS)
def test_s08_u15_a_flood_behind_a_scan_is_walked_in_milliseconds(case: str) -> None:
    flood = before_last_scan(PROGRESSIVE, FLOODS[case]())
    begun = time.thread_time()
    try:
        outline(flood, 100, 1000)
    except ImageRefused as refusal:
        assert "1,000 segments" in str(refusal)  # noqa: PT017 - some floods end soon, some are refused soon
    assert time.thread_time() - begun < SOON_S


def test_u15_the_limit_of_segments_behind_a_scan_stands_between_its_two_sides() -> None:
    tables = outline_chunks(PROGRESSIVE)
    room = DecodeLimits().max_chunks - tables
    comment = segment(0xFE, b"")
    np.testing.assert_array_equal(decode(before_last_scan(PROGRESSIVE, comment * room)), decode(PROGRESSIVE))
    with pytest.raises(TooManyChunks, match="more than 1,000 segments beside its scans"):
        decode(before_last_scan(PROGRESSIVE, comment * (room + 1)))


def outline_chunks(image: bytes) -> int:
    """Return how many segments stand behind the first scan, by the tables of Huffman codes that Pillow writes there."""
    return image[image.index(SCAN) :].count(b"\xff\xc4")


# What cjpeg -arithmetic makes of 4000 x 4000 grey pixels: 3 bytes of code. The second is progressive.
ARITHMETIC = {
    "sequential": "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAx"
    "NDQ0Hyc5PTgyPC4zNDL/yQALCA+gD6ABAREA/8wABgAQEAX/2gAIAQEAAD8AHreA/9k=",
    "progressive": "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAx"
    "NDQ0Hyc5PTgyPC4zNDL/ygALCA+gD6ABAREA/8wABAAQ/9oACAEBAAAAAUvG/8wABBAF/9oACAEBAAEFAqXj/8wABBAF/9oACAEBAAY/AqXj/8wABBAF/9"
    "oACAEBAAE/IaXj/9oACAEBAAAAEEvG/8wABBAF/9oACAEBAAE/EKXj/9k=",
}


@pytest.mark.parametrize("case", ARITHMETIC)
def test_u15_a_blank_jpeg_of_arithmetic_code_is_whole_in_a_few_bytes_and_refused_without_its_end(case: str) -> None:
    blank = base64.b64decode(ARITHMETIC[case])
    image = decode(blank)
    assert (image.size, image.getextrema()) == ((4000, 4000), ((128, 128),) * 3)
    with pytest.raises(CorruptImage):
        decode(blank[:-2])


def test_u15_what_stands_behind_an_image_does_not_make_up_for_what_it_lacks() -> None:
    flat = bytearray(encoded(Image.new("L", (4000, 4000)), "JPEG", optimize=True))
    cut = bytes(flat[: flat.index(SCAN) + 2000]) + END
    with pytest.raises(CorruptImage, match="too few bytes"):
        decode(cut + bytes(100_000))
    with pytest.raises(CorruptImage, match="too few bytes"):
        decode(cut + VIDEO)


def test_u15_a_picture_of_several_is_its_first_and_as_complete_as_any() -> None:
    file = io.BytesIO()
    picture().save(file, "MPO", save_all=True, append_images=[picture(seed=1)] * 3)
    several = file.getvalue()
    assert Image.open(io.BytesIO(several)).format == "MPO"
    np.testing.assert_array_equal(decode(several), decode(several[: outline(several, 100, 1000).end]))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_u15_what_follows_an_image_of_another_kind_is_not_looked_at_either(kind: str) -> None:
    image = encoded(picture(), kind)
    np.testing.assert_array_equal(decode(image + VIDEO + PREVIEW), decode(image))
