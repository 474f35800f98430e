"""TIFF files of every kind, written tag by tag: Pillow writes few of those that cameras, scanners and microscopes do."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

UNCOMPRESSED, DEFLATE, PACKBITS = 1, 8, 32773


def tiff_of(
    samples: NDArray[np.generic],
    photometric: int,
    *,
    bits: int = 8,
    order: str = "<",
    planar: bool = False,
    compression: int = UNCOMPRESSED,
    extra: Sequence[int] = (),
    sample_format: int = 1,
    fill_order: int = 1,
    big: bool = False,
    rows_per_strip: int = 0,
    tile: int = 0,
    tags: dict[int, tuple[int, Sequence[int]]] | None = None,
) -> bytes:
    """Return a TIFF of samples [H, W, S], whose values are those of the file.

    Args:
        samples: integers of up to `bits`, or floats.
        photometric: 0 WhiteIsZero, 1 BlackIsZero, 2 RGB, 3 palette, 5 CMYK, 6 YCbCr, 8 LAB.
        bits: of a sample.
        order: `<` (II) or `>` (MM).
        planar: one plane behind the other.
        compression: one of those above.
        extra: what the samples beyond the colour are: 0 unknown, 1 associated and 2 unassociated alpha.
        sample_format: 1 unsigned, 2 signed, 3 float.
        fill_order: 2 stores the bits of each byte the other way round.
        big: a BigTIFF, of 64-bit offsets.
        rows_per_strip: 0 puts all into one.
        tile: the side of square tiles in place of strips.
        tags: further ones, number to type (3 is 16 bits) and values.
    """
    height, width, count = samples.shape
    planes = [samples[..., [index]] for index in range(count)] if planar else [samples]
    step = rows_per_strip or height
    parts = [part for plane in planes for part in (_tiles(plane, tile) if tile else _strips(plane, step))]
    strips = [_packed(_bytes(part, bits, order), compression, fill_order) for part in parts]
    start = 16 if big else 8
    offsets = [start + sum(map(len, strips[:index])) for index in range(len(strips))]
    entries: dict[int, tuple[int, Sequence[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * count),
        259: (3, [compression]),
        262: (3, [photometric]),
        266: (3, [fill_order]),
        324 if tile else 273: (4, offsets),
        277: (3, [count]),
        325 if tile else 279: (4, [len(strip) for strip in strips]),
        **({322: (3, [tile]), 323: (3, [tile])} if tile else {278: (4, [step])}),
        284: (3, [2 if planar else 1]),
        339: (3, [sample_format] * count),
        **({338: (3, list(extra))} if extra else {}),
        **(tags or {}),
    }
    body = b"".join(strips)
    return _header(order, big, start + len(body)) + body + _directory(entries, order, big, start + len(body))


def _strips(plane: NDArray[np.generic], rows: int) -> list[NDArray[np.generic]]:
    return [plane[top : top + rows] for top in range(0, len(plane), rows)]


def _tiles(plane: NDArray[np.generic], side: int) -> list[NDArray[np.generic]]:
    below, beside = (-length % side for length in plane.shape[:2])
    padded = np.pad(plane, ((0, below), (0, beside), (0, 0)), mode="edge")
    return [
        padded[top : top + side, left : left + side]
        for top in range(0, padded.shape[0], side)
        for left in range(0, padded.shape[1], side)
    ]


def _bytes(samples: NDArray[np.generic], bits: int, order: str) -> list[bytes]:
    rows = samples.reshape(samples.shape[0], -1)
    if rows.dtype.kind == "f" or bits in (16, 32):
        kind = f"{order}{rows.dtype.kind}{bits // 8}"
        return [row.astype(kind).tobytes() for row in rows]
    if bits == 8:
        return [row.astype(np.uint8).tobytes() for row in rows]
    places = (
        rows[..., None].astype(np.int64) >> np.arange(bits)[::-1]
    ) & 1  # the highest bit first, whatever the order
    return [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in places]


def _packed(rows: list[bytes], compression: int, fill_order: int) -> bytes:
    if compression == DEFLATE:
        data = zlib.compress(b"".join(rows))
    elif compression == PACKBITS:  # literally: up to 128 bytes behind their count
        data = b"".join(
            bytes([len(row[at : at + 128]) - 1]) + row[at : at + 128] for row in rows for at in range(0, len(row), 128)
        )
    else:
        data = b"".join(rows)
    if fill_order == 2 and compression != DEFLATE:
        data = np.packbits(np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")).tobytes()
    return data


def _header(order: str, big: bool, directory: int) -> bytes:
    name = b"II" if order == "<" else b"MM"
    return name + (
        struct.pack(f"{order}HHHQ", 43, 8, 0, directory) if big else struct.pack(f"{order}HI", 42, directory)
    )


def _directory(entries: dict[int, tuple[int, Sequence[int]]], order: str, big: bool, at: int) -> bytes:
    count, entry, room, pointer = ("Q", "HHQ", 8, "Q") if big else ("H", "HHI", 4, "I")
    head = struct.pack(order + count, len(entries))
    behind = at + len(head) + len(entries) * (12 + 8 * big) + struct.calcsize(order + pointer)
    values = b""
    for number, (kind, numbers) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        head += struct.pack(order + entry, number, kind, len(numbers))
        if len(packed) <= room:
            head += packed.ljust(room, b"\0")
        else:
            head += struct.pack(order + pointer, behind + len(values))
            values += packed
    return head + struct.pack(order + pointer, 0) + values
