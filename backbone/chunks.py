"""The chunks of an encoded image (a JPEG calls them segments), counted by their headers before a parser sees them.

A parser takes microseconds for each chunk, however empty, and 20 MB hold five million of them. What is walked here is what Pillow's own
parsers walk, step by step, so that nothing hides between two opinions of where a chunk ends; the walk stops at its limit.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from itertools import repeat

from backbone.errors import TooManyChunks

# Chunks of pixels are many where an image is large. libpng writes 8 KiB in each, some encoders a row, and the tests of PNG's makers one
# byte, of small images. So many are free, which is a row each of the tallest image and 0.1 s of a parser; beyond, each needs 4 KiB.
_FREE_PIXEL_CHUNKS, _PIXEL_CHUNK_BYTES = 30_000, 4096

# Bytes between two segments are skipped one by one. So many of them cost what a segment does, and no camera pads by more.
_STRAY_BYTES = 64

_PNG_HEADER, _WEBP_HEADER, _JPEG_LENGTH = struct.Struct(">I4s"), struct.Struct("<4sI"), struct.Struct(">H")
_PNG_PIXELS = (b"IDAT", b"fdAT", b"fcTL")  # those of an animation, too
_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANMF")
_JPEG_MARKER = re.compile(rb"\xff[^\xff]", re.DOTALL)  # any number of 0xFF may stand before one
_JPEG_SCAN = 0xDA  # compressed pixels follow, and what comes between those is skipped by compiled code
_JPEG_WITHOUT_LENGTH = frozenset((0x00, 0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)))


def check_chunks(data: bytes, kind: str, most: int) -> None:
    """Refuse an image of format `kind` with more than `most` chunks beside its pixels, or whose pixels come in crumbs.

    Raises:
        TooManyChunks: it says which of the two.
    """
    of_pixels, beside = _FREE_PIXEL_CHUNKS + len(data) // _PIXEL_CHUNK_BYTES, most
    for is_pixels in _WALKS[kind](data) if kind in _WALKS else ():
        of_pixels, beside = of_pixels - is_pixels, beside - (not is_pixels)
        if beside < 0:
            raise TooManyChunks(f"the image has more than {most:,} chunks of metadata; save it again without.")
        if of_pixels < 0:
            raise TooManyChunks("the image's pixels come in too many chunks for its size; save it again.")


def _jpeg(data: bytes) -> Iterator[bool]:
    """Walk the segments up to the first scan."""
    at = 2
    while found := _JPEG_MARKER.search(data, at):
        yield from repeat(False, (found.end() - 2 - at) // _STRAY_BYTES)
        marker, at = data[found.end() - 1], found.end()
        if marker == _JPEG_SCAN:
            return
        yield False
        if marker not in _JPEG_WITHOUT_LENGTH:
            if at + _JPEG_LENGTH.size > len(data):
                return
            (length,) = _JPEG_LENGTH.unpack_from(data, at)
            at += max(length, _JPEG_LENGTH.size)


def _png(data: bytes) -> Iterator[bool]:
    """Walk the chunks up to IEND: text may follow the pixels, and is read."""
    at = 8
    while at + _PNG_HEADER.size <= len(data):
        length, name = _PNG_HEADER.unpack_from(data, at)
        if name == b"IEND":
            return
        yield name in _PNG_PIXELS
        at += _PNG_HEADER.size + length + 4  # its checksum


def _webp(data: bytes) -> Iterator[bool]:
    """Walk the chunks up to where the file says it ends."""
    _, size = _WEBP_HEADER.unpack_from(data)
    at, end = 12, min(8 + size, len(data))
    while at + _WEBP_HEADER.size <= end:
        name, length = _WEBP_HEADER.unpack_from(data, at)
        yield name in _WEBP_PIXELS
        at += _WEBP_HEADER.size + length + length % 2


_WALKS: dict[str, Callable[[bytes], Iterator[bool]]] = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp}
