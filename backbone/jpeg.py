"""The markers of a JPEG, from its start to its end of image, as libjpeg meets them.

What looks like a marker is none inside of a segment (a thumbnail there has scans of its own, and a thermal camera's data any bytes) or
behind the end of image (a phone's video, previews); libjpeg stops there, too. Where libjpeg would raise an error, the walk ends: the
decoder refuses the image, whatever follows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backbone.errors import TooManyChunks, TooManyScans

_LENGTH = struct.Struct(">H")
_SCAN, _END = 0xDA, 0xD9
_ARITHMETIC = frozenset((0xC9, 0xCA, 0xCB))  # frames: sequential, progressive, lossless
_FRAMES = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *_ARITHMETIC, *range(0xCD, 0xD0)))
_SEGMENTS = _FRAMES | frozenset((0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE))  # those with a length

# Bytes in which a marker is searched for at a time: little at first, as most stand close to each other, then what fits a core's cache.
_FIRST_WINDOW, _LARGEST_WINDOW = 4096, 2**18


@dataclass(frozen=True)
class Outline:
    """What the markers say of a JPEG."""

    end: int  # bytes up to the end of the image; all there are where it has none
    arithmetic: bool  # compressed by arithmetic instead of Huffman's code


def outline(data: bytes, max_scans: int, max_chunks: int) -> Outline:
    """Walk the markers of a JPEG.

    Raises:
        TooManyScans: more scans than `max_scans`.
        TooManyChunks: more than `max_chunks` other segments before the first scan, or behind it.
    """
    scans = chunks = 0
    arithmetic = False
    for marker, at in _markers(data):
        if marker == _END:
            return Outline(at, arithmetic)
        arithmetic |= marker in _ARITHMETIC
        if marker == _SCAN:
            chunks, scans = chunks if scans else 0, scans + 1
        else:
            chunks += 1
        if scans > max_scans:
            raise TooManyScans(f"the JPEG has more than {max_scans} scans; save it again.")
        if chunks > max_chunks:
            raise TooManyChunks(f"the JPEG has more than {max_chunks:,} segments beside its scans; save it again.")
    return Outline(len(data), arithmetic)


def _markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield each marker of a segment, and the end of image, with where the bytes behind it start."""
    values = np.frombuffer(data, np.uint8)
    at = 2
    while (found := _next_marker(data, at, values)) is not None:
        marker, at = data[found + 1], found + 2
        yield marker, at
        if marker == _END or marker not in _SEGMENTS or at + _LENGTH.size > len(data):
            return
        (length,) = _LENGTH.unpack_from(data, at)
        at += max(length, _LENGTH.size)


def _next_marker(data: bytes, at: int, values: NDArray[np.uint8]) -> int | None:
    """Return where 0xFF stands before a marker that is not passed over, from `at` on.

    Passed over are escaped bytes (0x00) and fill bytes (0xFF), restart markers, and what is reserved (below 0xC0): libjpeg skips the
    last where it looks for a restart, and raises an error elsewhere.
    """
    if data[at : at + 1] == b"\xff" and at + 1 < len(data) and data[at + 1] in _SEGMENTS:  # one right behind the other
        return at
    window = _FIRST_WINDOW
    while at + 1 < len(values):
        first, second = values[at : at + window], values[at + 1 : at + window + 1]
        is_marker = (first[: len(second)] == 0xFF) & (second >= 0xC0) & ((second & 0xF8) != 0xD0) & (second != 0xFF)
        found = int(is_marker.argmax())
        if is_marker[found]:
            return at + found
        at, window = at + window, min(2 * window, _LARGEST_WINDOW)
    return None
