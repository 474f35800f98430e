"""Images that mean harm, and odd ones, built in code."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from pictures import encoded, picture, png_of
from PIL import Image

LARGE = picture(200, 160)


def png_chunks(image: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at < len(image):
        (length,) = struct.unpack(">I", image[at : at + 4])
        chunks.append((image[at + 4 : at + 8], image[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


NO_IMAGES = {
    "random bytes": np.random.default_rng(0).bytes(2000),
    "HTML": b"<!doctype html><img src=x onerror=alert(1)>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "PDF": b"%PDF-1.7\n1 0 obj",
    "ZIP": b"PK\x03\x04" + bytes(100),
    "pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "Photoshop": b"8BPS\x00\x01" + bytes(100),
    "FITS": b"SIMPLE  =                    T" + bytes(100),
    "JPEG 2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100),
    "AVIF": b"\x00\x00\x00\x20ftypavif" + bytes(100),
    **{kind: encoded(LARGE, kind) for kind in ("GIF", "TIFF", "BMP", "ICO", "PPM", "TGA", "PCX")},
}


def palette_of(width: int, height: int) -> bytes:
    grey = png_of(width, height, 1, 0)
    (name, header), *rest = png_chunks(grey)
    return png([(name, header[:9] + b"\x03" + header[10:]), (b"PLTE", bytes(6)), *rest])


def interlaced_of(width: int, height: int) -> bytes:
    (name, header), *rest = png_chunks(png_of(width, height))
    return png([(name, header[:12] + b"\x01"), *rest])


def lying(kind: str, width: int, height: int) -> bytes:
    image = bytearray(encoded(LARGE, kind))
    if kind == "PNG":
        (name, header), *rest = png_chunks(bytes(image))
        return png([(name, struct.pack(">II", width, height) + header[8:]), *rest])
    if kind == "JPEG":
        at = image.index(b"\xff\xc0")
        image[at + 5 : at + 9] = struct.pack(">HH", height, width)
        return bytes(image)
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + size
    body = b"WEBP" + extended + bytes(image[12:])
    return b"RIFF" + struct.pack("<I", len(body)) + body


def with_scans(scans: int) -> bytes:
    image = encoded(LARGE, "JPEG", progressive=True)
    start = image.index(b"\xff\xda")
    (length,) = struct.unpack(">H", image[start + 2 : start + 4])
    scan = image[start : start + 2 + length]  # its header alone
    return image[:start] + scan * (scans - image.count(b"\xff\xda")) + image[start:]


def with_text_bomb(kind: bytes) -> bytes:
    packed = zlib.compress(bytes(50_000_000), 9)
    head = b"Comment\x00\x00" if kind == b"zTXt" else b"Comment\x00\x01\x00\x00\x00"
    first, *rest = png_chunks(encoded(LARGE))
    return png([first, *[(kind, head + packed)] * 20, *rest])


def with_app_segments(count: int) -> bytes:
    image = encoded(LARGE, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 65_535) + b"Exif\x00\x00" + bytes(65_535 - 8)
    return image[:2] + segment * count + image[2:]


def with_empty_segments(count: int) -> bytes:
    image = encoded(LARGE, "JPEG")
    return image[:2] + b"\xff\xef\x00\x02" * count + image[2:]


METADATA = {
    "zTXt bombs": (lambda: with_text_bomb(b"zTXt"), (422, "image_corrupt")),
    "iTXt bombs": (lambda: with_text_bomb(b"iTXt"), (422, "image_corrupt")),
    "100,000 chunks": (
        lambda: png(
            [*png_chunks(encoded(LARGE))[:1], *[(b"tEXt", b"a\x00b")] * 100_000, *png_chunks(encoded(LARGE))[1:]]
        ),
        (422, "too_many_chunks"),
    ),
    "APP segments": (lambda: with_app_segments(100), (200, "")),
    "5 million segments": (lambda: with_empty_segments(4_900_000), (422, "too_many_chunks")),
    "profile": (lambda: encoded(LARGE, "JPEG", icc_profile=bytes(5_000_000)), (200, "")),
    "XMP": (lambda: encoded(LARGE, "WEBP", xmp=b"<x>" * 1_000_000), (200, "")),
}


def animated(kind: str, frames: int) -> bytes:
    file = io.BytesIO()
    rest = [Image.new("RGB", LARGE.size, (index % 256, 0, 0)) for index in range(frames - 1)]
    LARGE.save(
        file, kind, save_all=True, append_images=rest, duration=10, **({"lossless": True} if kind == "WEBP" else {})
    )
    return file.getvalue()


def endless(kind: str, frames: int) -> bytes:
    """LARGE as the first frame of many, which are of one pixel so that they are made soon."""
    return _endless_png(frames) if kind == "PNG" else _endless_webp(frames)


def _endless_png(frames: int) -> bytes:
    def control(number: int, width: int, height: int) -> tuple[bytes, bytes]:
        return b"fcTL", struct.pack(">5I2H2B", number, width, height, 0, 0, 1, 100, 0, 0)

    header, *pixels, end = png_chunks(encoded(LARGE))
    one = zlib.compress(bytes(4))  # a row of one pixel, black
    rest = [
        each
        for frame in range(1, frames)
        for each in (control(2 * frame - 1, 1, 1), (b"fdAT", struct.pack(">I", 2 * frame) + one))
    ]
    return png([header, (b"acTL", struct.pack(">II", frames, 0)), control(0, *LARGE.size), *pixels, *rest, end])


def _endless_webp(frames: int) -> bytes:
    two = animated("WEBP", 2)
    at = two.rindex(b"ANMF")
    body = two[8:at] + two[at:] * (frames - 1)
    return b"RIFF" + struct.pack("<I", len(body)) + body
