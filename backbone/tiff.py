"""TIFF kinds that Pillow reads wrong or not at all, brought to kinds that it reads right.

The directory of the first picture is read here, and where its kind asks for it a classic TIFF is written with the same pixels:

- BigTIFF becomes classic (Pillow misreads it in big-endian order; within the limits of bytes no offset needs 64 bits).
- WhiteIsZero grey of 12 and 16 bits, or with an alpha channel, is read as BlackIsZero and inverted afterwards.
- 12-bit grey is read in little-endian order (its packed bits are the same in both) and has 4,095 as its white.
- 16-bit grey with an alpha channel is read as four channels of 8 bits, the bytes of the two.
- Uncompressed planes become one picture of interleaved pixels, and bits that are stored the other way round (FillOrder 2) are turned.

What remains unreadable is refused by its name.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from backbone.errors import CorruptImage, UnsupportedMode

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_OFFSETS, _SAMPLES, _ROWS, _LENGTHS, _PLANES, _PREDICTOR, _EXTRA, _FORMAT = 273, 277, 278, 279, 284, 317, 338, 339
# Those that the pixels depend on: those above, then orientation, T.4, T.6, palette, tiles, tables of JPEG, and what YCbCr is made of.
_OF_PIXELS = frozenset(
    (
        _WIDTH,
        _HEIGHT,
        _BITS,
        _COMPRESSION,
        _PHOTOMETRIC,
        _FILL_ORDER,
        _OFFSETS,
        _SAMPLES,
        _ROWS,
        _LENGTHS,
        _PLANES,
        _PREDICTOR,
    )
).union((_EXTRA, _FORMAT), (274, 292, 293, 320), range(322, 326), (347,), range(529, 533))
WHITE = 65_535  # of 16 bits
# Type number to its struct letter. Rationals are two numbers.
_TYPES = {1: "B", 3: "H", 4: "I", 5: "II", 7: "B", 16: "Q"}
_NAMES = {0: "WhiteIsZero", 1: "BlackIsZero", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "LAB"}
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))  # the bits of each byte the other way round
_MOST_BYTES = (
    4 * 2**20
)  # of a directory's numbers: those of 50 megapixels in the smallest tiles are 1.6 MB; it takes 20 ms
_FORMATS = {1: "unsigned", 2: "signed", 3: "float"}


@dataclass(frozen=True)
class Tiff:
    """A TIFF as Pillow shall read it, and what is to be done with what it reads."""

    data: bytes
    name: str = "an unknown kind"  # for a refusal
    white_is_zero: bool = False  # grey comes inverted
    white: int = WHITE  # the highest value of 16-bit grey
    grey_alpha: str = ""  # numpy's type of the two channels that come as bytes, if they do
    alpha: int = 2  # of those: 0 no alpha, 1 grey is multiplied by it, 2 it is not
    signed: bool = False  # bytes are signed


@dataclass(frozen=True)
class _Directory:
    order: str
    big: bool
    tags: dict[int, tuple[int, tuple[int, ...]]] = field(default_factory=dict)  # number to type and values

    def all(self, tag: int, default: Sequence[int]) -> tuple[int, ...]:
        return self.tags[tag][1] if tag in self.tags else tuple(default)

    def one(self, tag: int, default: int) -> int:
        return (self.all(tag, ()) or (default,))[0]

    def having(self, **changes: tuple[int, Sequence[int]]) -> _Directory:
        return replace(
            self, tags={**self.tags, **{int(tag[1:]): (kind, tuple(n)) for tag, (kind, n) in changes.items()}}
        )


def readable(data: bytes) -> Tiff:
    """Return the TIFF that Pillow is to read in place of `data`, which is the same where it reads that right.

    Raises:
        CorruptImage: the pixels are not where the directory says.
    """
    try:
        found = _read(data)
    except (struct.error, ValueError, OverflowError):
        return Tiff(data)  # Pillow has the last word on what is broken
    try:
        return _brought(data, found)
    except (struct.error, ValueError, OverflowError) as error:
        raise CorruptImage("the TIFF's pixels are not where its directory says; save it again.") from error


def _brought(data: bytes, found: _Directory) -> Tiff:
    bits, extra = _bits(found), found.all(_EXTRA, ())
    photometric = found.one(_PHOTOMETRIC, 0)
    sample_format = found.one(_FORMAT, 1)
    made = Tiff(data, _name(found), signed=sample_format == 2 and set(bits) == {8})
    changed, body = found, data
    if found.one(_COMPRESSION, 1) == 1:
        if found.one(_FILL_ORDER, 1) == 2:
            changed, body = changed.having(_266=(3, [1])), data.translate(_REVERSED)
        if found.one(_PLANES, 1) == 2 and (set(bits) == {16} or (set(bits) == {8} and (extra or photometric == 6))):
            changed, body = _interleaved(body, changed, bits)
    if photometric in (0, 1) and sample_format == 1:
        if photometric == 0 and (bits in ((12,), (16,)) or (len(bits) == 2 and len(extra) == 1)):
            made, changed = replace(made, white_is_zero=True), changed.having(_262=(3, [1]))
        if bits == (12,):
            made = replace(made, white=4095)
        if bits == (16, 16) and len(extra) == 1 and changed.one(_PLANES, 1) == changed.one(_PREDICTOR, 1) == 1:
            made = replace(made, grey_alpha=f"{found.order}u2", alpha=extra[0])
            changed = changed.having(_258=(3, [8] * 4), _262=(3, [2]), _277=(3, [4]), _338=(3, [2]), _339=(3, [1] * 4))
    order = "<" if bits == (12,) else found.order
    if changed is found and not found.big and order == found.order:
        return made
    return replace(made, data=_written(body, replace(changed, order=order)))


def finished(image: Image.Image, tiff: Tiff) -> Image.Image:
    """Return what Pillow read of a TIFF as grey or colour that the common rules hold for: 8-bit, or 16-bit up to 65,535.

    Raises:
        UnsupportedMode: signed values below zero have no brightness.
    """
    if tiff.signed and image.mode == "L" and int(np.asarray(image).max()) > 127:
        raise UnsupportedMode(f"the TIFF is of {tiff.name} with values below zero; convert it to unsigned ones.")
    if tiff.grey_alpha:
        return _grey_with_alpha(image, tiff)
    if tiff.white_is_zero and image.mode in ("L", "LA", "La"):
        grey, *alpha = image.split()
        inverted = grey.point(lambda value: 255 - value)
        return Image.merge(image.mode, [inverted, *alpha]) if alpha else inverted
    if image.mode.startswith("I;16") and (tiff.white_is_zero or tiff.white != WHITE):
        values = np.asarray(image).astype(np.uint32)
        if tiff.white_is_zero:
            values ^= tiff.white  # whose bits are all ones
        return Image.fromarray(((values * WHITE + tiff.white // 2) // tiff.white).astype(np.uint16))
    return image


def unreadable(tiff: Tiff) -> UnsupportedMode:
    """Return the refusal of a kind that Pillow does not know."""
    return UnsupportedMode(f"the TIFF is of {tiff.name}, which is not read; convert it to 8 or 16 bits of grey or RGB.")


def _grey_with_alpha(image: Image.Image, tiff: Tiff) -> Image.Image:
    height, width = image.size[::-1]
    both = np.ascontiguousarray(np.asarray(image)).view(tiff.grey_alpha).reshape(height, width, 2).astype(np.uint32)
    grey, alpha = both[..., 0], both[..., 1]
    if tiff.white_is_zero:
        grey ^= WHITE
    if tiff.alpha == 2:
        grey *= alpha + 1
        grey >>= 16
    elif tiff.alpha == 1:
        np.minimum(grey, alpha, out=grey)
    if tiff.alpha:  # over white
        grey += WHITE - alpha
    return Image.fromarray(grey.astype(np.uint16))


def _interleaved(data: bytes, found: _Directory, bits: tuple[int, ...]) -> tuple[_Directory, bytes]:
    width, height = found.one(_WIDTH, 0), found.one(_HEIGHT, 0)
    kind = f"{found.order}u{bits[0] // 8}"
    lengths = found.all(_LENGTHS, ())
    if sum(lengths) > len(data):
        raise ValueError("strips that overlap")
    pixels = b"".join(data[at : at + length] for at, length in zip(found.all(_OFFSETS, ()), lengths, strict=True))
    planes = np.frombuffer(pixels, kind).reshape(len(bits), height, width)
    body = planes.transpose(1, 2, 0).tobytes()
    one = found.having(_273=(4, [len(data)]), _278=(4, [height]), _279=(4, [len(body)]), _284=(3, [1]))
    return one, data + body


def _bits(found: _Directory) -> tuple[int, ...]:
    bits = found.all(_BITS, (1,))
    samples = min(found.one(_SAMPLES, len(bits)), 16)  # as many as Pillow takes at most
    return bits[:samples] if len(bits) > 1 else bits * samples


def _name(found: _Directory) -> str:
    photometric, sample_format = found.one(_PHOTOMETRIC, 0), found.one(_FORMAT, 1)
    bits = ", ".join(map(str, _bits(found)))
    planes = ", in planes" if found.one(_PLANES, 1) == 2 else ""
    kind = _FORMATS.get(sample_format, f"unknown ({sample_format})")
    return f"{_NAMES.get(photometric, f'colour kind {photometric}')}, {kind}, of {bits} bits{planes}"


def _read(data: bytes) -> _Directory:
    """Read the first directory, of which the tags of pixels alone, so that what it costs is bounded."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    entry = struct.Struct(order + ("HHQ" if big else "HHI"))
    step, room = (20, 8) if big else (12, 4)
    at += 8 if big else 2
    found, left = _Directory(order, big), _MOST_BYTES
    for place in range(
        at, min(at + step * min(count, 65_535), len(data) - step + 1), step
    ):  # as many as a classic one may have
        tag, kind, length = entry.unpack_from(data, place)
        if tag not in _OF_PIXELS or kind not in _TYPES or tag in found.tags:
            continue
        numbers = struct.Struct(f"{order}{length * len(_TYPES[kind])}{_TYPES[kind][0]}")
        left -= numbers.size
        if left < 0:
            raise ValueError("more bytes than any directory has")
        where = place + entry.size
        if numbers.size > room:
            (where,) = struct.unpack_from(order + ("Q" if big else "I"), data, where)
        if where + numbers.size <= len(data):  # where it points out of the file, Pillow goes on without it
            found.tags[tag] = kind, numbers.unpack_from(data, where)
    return found


def _written(data: bytes, directory: _Directory) -> bytes:
    """Return a classic TIFF of the bytes in `data`, with this directory behind them."""
    order, start = directory.order, len(data) + len(data) % 2
    head, values = struct.pack(f"{order}H", len(directory.tags)), b""
    behind = start + 2 + 12 * len(directory.tags) + 4
    for tag, (given, numbers) in sorted(directory.tags.items()):
        kind = 4 if given == 16 else given
        letter = _TYPES[kind][0]
        packed = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        head += struct.pack(f"{order}HHI", tag, kind, len(numbers) // len(_TYPES[kind]))
        if len(packed) <= 4:
            head += packed.ljust(4, b"\0")
        else:
            head += struct.pack(f"{order}I", behind + len(values))
            values += packed + b"\0" * (len(packed) % 2)
    name = b"II*\x00" if order == "<" else b"MM\x00*"
    body = data[8:] + b"\0" * (start - len(data))
    return name + struct.pack(f"{order}I", start) + body + head + bytes(4) + values
