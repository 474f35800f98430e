"""HEIC and AVIF, where their decoders are installed: the same pictures, within the same limits (U06)."""

from __future__ import annotations

import io
import struct
import time

import numpy as np
import pytest
from pictures import encoded, picture
from PIL import Image, ImageOps

from backbone.decode import DecodeLimits, decode
from backbone.errors import ImageRefused, ImageTooSmall, TooManyChunks, TooManyPixels, UnsupportedImageType
from backbone.formats import ALL_FORMATS, INSTALLED_FORMATS, PILLOW_NAMES, load_decoders

INSTALLED = [name for name in ("AVIF", "HEIC") if name in INSTALLED_FORMATS]
BEST = {"AVIF": {"quality": 100, "subsampling": "4:4:4"}, "HEIC": {"quality": -1, "chroma": 444}}
CLOSE = 4  # levels that the conversion to luma and chroma costs at most
MUCH = 19_000_000  # bytes of a flood: just within the limit of bytes
SOON_S = 0.2

every_installed = pytest.mark.parametrize("kind", INSTALLED)


def heif(image: Image.Image, kind: str, **options: object) -> bytes:
    load_decoders((kind,))
    return encoded(image, PILLOW_NAMES.get(kind, kind), **BEST[kind], **options)


def assert_close(decoded: Image.Image, expected: Image.Image) -> None:
    assert decoded.size == expected.size
    assert np.abs(np.asarray(decoded).astype(int) - np.asarray(expected.convert("RGB"))).max() <= CLOSE


@every_installed
def test_u06_a_picture_is_decoded_to_its_pixels(kind: str) -> None:
    assert_close(decode(heif(picture(200, 150), kind)), picture(200, 150))
    assert_close(decode(heif(picture(51, 33).convert("L"), kind)), picture(51, 33).convert("L"))
    assert_close(decode(heif(picture(200, 150), kind), cover=64), picture(200, 150))


@every_installed
def test_u06_it_is_turned_once(kind: str) -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = picture(200, 150)
        stored.info["exif"] = exif.tobytes()
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(picture(200, 150), exif=exif))))
        options = {"exif": exif.tobytes()} if kind == "AVIF" else {}
        assert_close(decode(heif(stored, kind, **options)), upright)


@every_installed
def test_u06_transparency_is_composited_over_white_and_a_sequence_is_its_first_picture(kind: str) -> None:
    clear = picture().convert("RGBA")
    clear.putalpha(0)
    assert decode(heif(clear, kind)).getextrema() == ((255, 255),) * 3
    several = heif(picture(), kind, save_all=True, append_images=[Image.new("RGB", (48, 40), "red")])
    assert_close(decode(several), picture())


@every_installed
def test_u06_a_cut_one_is_refused_and_never_filled(kind: str) -> None:
    data = heif(picture(200, 150), kind)
    for size in [*range(16, len(data), len(data) // 40), len(data) - 1]:
        with pytest.raises(ImageRefused):
            decode(data[:size])
    assert_close(decode(data + b"and more"), picture(200, 150))


@every_installed
def test_u06_the_limits_are_those_of_every_format(kind: str) -> None:
    data = heif(picture(), kind)
    assert decode(data, DecodeLimits(max_pixels=48 * 40, max_side=48)).size == (48, 40)
    for limits in (DecodeLimits(max_pixels=48 * 40 - 1), DecodeLimits(max_side=47)):
        with pytest.raises(TooManyPixels, match="48 x 40"):
            decode(data, limits)
    with pytest.raises(ImageTooSmall):
        decode(heif(picture(1616, 16), kind))
    with pytest.raises(UnsupportedImageType, match="accepted are JPEG, PNG, WEBP, TIFF, BMP, GIF"):
        decode(data, DecodeLimits(formats=ALL_FORMATS))


def box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + name + body


def with_meta(data: bytes, more: bytes) -> bytes:
    at = data.index(b"meta") - 4
    (size,) = struct.unpack_from(">I", data, at)
    return data[:at] + box(b"meta", data[at + 8 : at + size] + more) + data[at + size :]


LOCATIONS = b"".join(struct.pack(">HHHHII", item, 0, 0, 1, 0, 10) for item in range(65_535))
FLOODS = {
    "boxes": lambda data: data + b"\0\0\0\x08free" * (MUCH // 8),
    "boxes without a size": lambda data: data[:32] + b"\0\0\0\0meta" * (MUCH // 8),
    "boxes inside": lambda data: with_meta(data, b"\0\0\0\x08free" * (MUCH // 8)),
    "boxes in boxes": lambda data: (
        data[:32] + b"".join(struct.pack(">I4sI", size, b"meta", 0) for size in range(MUCH, 0, -12))
    ),
    "properties": lambda data: with_meta(data, box(b"iprp", box(b"ipco", box(b"free", b"") * 1_000_000))),
    "locations": lambda data: with_meta(
        data, box(b"iloc", b"\1\0\0\0" + struct.pack(">HH", 0x4400, 65_535) + LOCATIONS)
    ),
    "references": lambda data: with_meta(
        data, box(b"iref", b"\1\0\0\0" + box(b"dimg", bytes(6) + bytes(4 * 60_000)) * 40)
    ),
}


@every_installed
@pytest.mark.parametrize("case", FLOODS)
def test_s08_u06_a_flood_of_boxes_or_items_is_refused_by_counting_them(kind: str, case: str) -> None:
    flood = FLOODS[case](heif(picture(), kind))
    begun = time.thread_time()
    with pytest.raises((TooManyChunks, ImageRefused)):
        decode(flood[:20_000_000])
    assert time.thread_time() - begun < SOON_S


@every_installed
def test_u06_a_size_that_is_a_lie_is_held_to_the_limits(kind: str) -> None:
    data = heif(picture(), kind)
    at = data.index(b"ispe") + 8
    huge = data[:at] + struct.pack(">II", 65_500, 65_500) + data[at + 8 :]
    begun = time.thread_time()
    with pytest.raises(ImageRefused):
        decode(huge)
    assert time.thread_time() - begun < SOON_S


def test_u06_ten_bits_of_heic_come_as_eight() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    deep = np.asarray(picture()).astype(np.uint16) * 257
    file = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", (48, 40), deep.tobytes()).save(file, **BEST["HEIC"])
    assert_close(decode(file.getvalue()), picture())
