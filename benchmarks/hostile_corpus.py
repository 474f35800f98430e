"""Bad images made in code, some of them only odd; and the oracle that says which of all are pictures."""

from __future__ import annotations

import io
import struct
import tarfile
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

KINDS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
# The limits that dinodex documents as its defaults: what is beyond them is bad whatever Pillow says.
MOST_BYTES, MOST_PIXELS, MOST_SCANS, MOST_ASPECT, MOST_SIDE = 20 * 2**20, 50_000_000, 100, 100, 30_000
MOST_CHUNKS = 1_000  # of a PNG, beside its pixels
ORACLE = (
    "a picture has the signature of JPEG, PNG or WebP, is loaded whole by Pillow, and is within 20 MiB, 50 megapixels, sides of "
    "30,000, 100 scans, 1,000 chunks beside pixels and an aspect of 100; everything else is bad"
)


@dataclass(frozen=True)
class Case:
    """One body and what it claims to be."""

    family: str
    body: bytes
    content_type: str


def photograph(seed: int = 0, size: tuple[int, int] = (200, 160)) -> Image.Image:
    """Return colour noise, smooth enough for JPEG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return the bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def generated(seed: int = 0) -> Iterator[Case]:
    """Yield every generated case; the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    for kind, content_type in KINDS.items():
        for number in range(20):
            whole = encoded(photograph(number), kind)
            for sixteenth in range(1, 16):
                yield Case("cut off", whole[: len(whole) * sixteenth // 16], content_type)
            for _ in range(12):
                yield Case("bits flipped", flipped(whole, rng), content_type)
            yield Case(
                "header lies", lying(whole, kind, *(int(side) for side in rng.integers(7_000, 16_000, 2))), content_type
            )
            yield Case("polyglot", b"PK\x03\x04" + whole, content_type)
            yield Case("polyglot", whole + b"<script>alert(1)</script>", content_type)
            yield Case("signature, then noise", whole[:16] + rng.bytes(int(rng.integers(1, 5000))), content_type)
        for _ in range(80):
            yield Case("random bytes", rng.bytes(int(rng.integers(0, 5000))), content_type)
        for other in ("GIF", "TIFF", "BMP", "ICO", "PPM", "TGA", "PCX", "JPEG2000", "PDF", "EPS"):
            yield Case("another format", encoded(photograph(), other), content_type)
    yield from (Case("bomb", body, content_type) for body, content_type in bombs())
    yield from (Case("odd mode or size", body, content_type) for body, content_type in odd())
    plain = encoded(photograph(), "JPEG")
    for length in range(0, 200, 4):
        exif = b"Exif\x00\x00II*\x00" + rng.bytes(length)
        yield Case(
            "bad EXIF", plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:], KINDS["JPEG"]
        )


def flipped(whole: bytes, rng: np.random.Generator) -> bytes:
    """Return the file with one to sixteen of its bits turned."""
    body = bytearray(whole)
    for _ in range(int(rng.integers(1, 17))):
        body[int(rng.integers(len(body)))] ^= 1 << int(rng.integers(8))
    return bytes(body)


def lying(whole: bytes, kind: str, width: int, height: int) -> bytes:
    """Return the file with another size in its header."""
    if kind == "PNG":
        header = b"IHDR" + struct.pack(">II", width, height) + whole[24:29]
        return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]
    if kind == "JPEG":
        at = whole.index(b"\xff\xc0")
        return whole[: at + 5] + struct.pack(">HH", height, width) + whole[at + 9 :]
    at = whole.index(b"\x9d\x01\x2a")  # the start code of a key frame; 14 bits each for the sides follow
    return whole[: at + 3] + struct.pack("<HH", width & 0x3FFF, height & 0x3FFF) + whole[at + 7 :]


def chunk(name: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def bombs() -> Iterator[tuple[bytes, str]]:
    """Yield small files that ask for much: pixels, scans, chunks and texts."""
    for side in range(7_500, 20_000, 625):
        packer = zlib.compressobj(9)
        row = bytes(1 + (side + 7) // 8)
        data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
        header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
        yield b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""), KINDS["PNG"]
    progressive = encoded(photograph(), "JPEG", progressive=True)
    start = progressive.index(b"\xff\xda")
    scan = progressive[start : start + 2 + int.from_bytes(progressive[start + 2 : start + 4], "big")]
    for scans in (101, 1_000, 10_000, 100_000, 300_000):
        yield progressive[:start] + scan * scans + progressive[start:], KINDS["JPEG"]
    png = encoded(photograph(), "PNG")
    text = zlib.compress(bytes(50_000_000), 9)
    for inserted in (
        chunk(b"zTXt", b"a\0\0" + text) * 20,
        chunk(b"tEXt", b"a\0b") * 100_000,
        chunk(b"iCCP", b"a\0\0" + text),
    ):
        yield png[:33] + inserted + png[33:], KINDS["PNG"]


def odd() -> Iterator[tuple[bytes, str]]:
    """Yield images of unusual modes and sides."""
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        yield (
            encoded(photograph().convert("I").convert(mode) if mode == "I;16" else photograph().convert(mode), "PNG"),
            KINDS["PNG"],
        )
    for mode in ("L", "CMYK", "YCbCr"):
        yield encoded(photograph().convert(mode), "JPEG"), KINDS["JPEG"]
    for size in ((1, 1), (1, 100), (1, 101), (1, 20_000), (20_000, 1), (2, 2)):
        yield encoded(Image.new("RGB", size), "PNG"), KINDS["PNG"]


def pillow_images(archive: Path) -> Iterator[Case]:
    """Yield the files of Tests/images from Pillow's source distribution, each called by the type that its name says, or JPEG."""
    names = {".png": "PNG", ".webp": "WEBP"}
    with tarfile.open(archive) as files:
        for member in files:
            if "/Tests/images/" in member.name and member.isfile() and (file := files.extractfile(member)):
                kind = names.get(Path(member.name).suffix.lower(), "JPEG")
                yield Case("Pillow's own", file.read(), KINDS[kind])


def chunk_names(png: bytes) -> Iterator[bytes]:
    """Yield the name of each chunk of a PNG."""
    at = 8
    while at + 8 <= len(png):
        length, name = struct.unpack_from(">I4s", png, at)
        yield name
        at += 12 + length


def is_picture(body: bytes) -> bool:
    """Say what ORACLE says."""
    signed = (
        body[:3] == b"\xff\xd8\xff"
        or body[:8] == b"\x89PNG\r\n\x1a\n"
        or (body[:4] == b"RIFF" and body[8:12] == b"WEBP")
    )
    if not signed or len(body) > MOST_BYTES or (body[:2] == b"\xff\xd8" and body.count(b"\xff\xda") > MOST_SCANS):
        return False
    if body[:1] == b"\x89" and sum(name != b"IDAT" for name in chunk_names(body)) > MOST_CHUNKS:
        return False
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(body), formats=list(KINDS)) as image:
            width, height = image.size
            if width * height > MOST_PIXELS or max(width, height) > min(MOST_SIDE, MOST_ASPECT * min(width, height)):
                return False
            image.load()
    except Exception:  # noqa: BLE001 - whatever Pillow raises at it, it is none
        return False
    return True
