"""TIFF kinds that Pillow reads wrong or not at all, brought to kinds that it reads right.

The directory of the first picture is read here, and where its kind asks for it a classic TIFF is written with the same pixels:

- BigTIFF becomes classic (Pillow misreads it in big-endian order; within the limits of bytes no offset needs 64 bits).
- WhiteIsZero grey of 12 and 16 bits, or with an alpha channel, is read as BlackIsZero and inverted afterwards.
- 12-bit grey is read in little-endian order (its packed bits are the same in both) and has 4,095 as its white.
- 16-bit grey with an alpha channel is read as four channels of 8 bits, the bytes of the two; the differences of a predictor are added
  up afterwards. In planes, of 8 bits or 16, the two are read as red and green.
- Uncompressed planes and YCbCr are called compressed: Pillow leaves those to libtiff, which knows planes and subsampling.
- Bits that are stored the other way round (FillOrder 2) are turned.

What remains unreadable is refused by its name.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import COMPRESSION_INFO

from backbone.errors import CorruptImage, ImageRefused, UnsupportedMode
from backbone.tiff_directory import (
    BITS,
    COMPRESSION,
    EXTRA,
    FILL_ORDER,
    FORMAT,
    HEIGHT,
    ORIENTATION,
    PHOTOMETRIC,
    PLANES,
    PREDICTOR,
    SAMPLES,
    TILE_HEIGHT,
    TILE_WIDTH,
    WIDTH,
    Directory,
    read_directory,
    written,
)

WHITE = 65_535  # of 16 bits
_SHORT, _LONG = 3, 4  # types of a tag's numbers
_UNCOMPRESSED, _DEFLATE = 1, 8
_LARGEST_PADDING = 2048  # of a tile beyond its picture, a side: the largest tiles in use; libtiff allocates a whole one
_IN_PLANES, _DIFFERENCES = 2, 2  # of a picture's planes, and its predictor
_RGB, _YCBCR = 2, 6
_NAMES = {0: "WhiteIsZero", 1: "BlackIsZero", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "LAB"}
_FORMATS = {1: "unsigned", 2: "signed", 3: "float"}
_COMPRESSIONS = {34712: "JPEG 2000", 34887: "LERC", 34933: "PNG", 50002: "JPEG XL", 52546: "JPEG XL"}  # not read
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))  # the bits of each byte the other way round


@dataclass(frozen=True)
class Tiff:
    """A TIFF as Pillow shall read it, and what is to be done with what it reads."""

    data: bytes
    name: str = ""  # of its kind, for a refusal; none where the directory is broken
    compression: int = _UNCOMPRESSED
    white_is_zero: bool = False  # grey comes inverted
    white: int = WHITE  # the highest value of 16-bit grey
    grey_alpha: str = ""  # numpy's type of the two channels that come as bytes, if they do
    differences: int = 0  # columns over which these two are to be added up
    orientation: int = 1  # of those, as Pillow would turn what is no picture yet
    grey_alpha_planes: bool = False  # the two come as red and green
    alpha: int = 2  # of those: 0 no alpha, 1 grey is multiplied by it, 2 it is not
    signed: bool = False  # bytes are signed


def readable(data: bytes, most_tags: int) -> Tiff:
    """Return the TIFF that Pillow is to read in place of `data`, which is the same where it reads that right.

    Raises:
        CorruptImage: the pixels are not where the directory says.
        TooManyChunks: the directory is longer than `most_tags`, or than any picture's.
    """
    try:
        found = read_directory(data, most_tags)
    except (struct.error, OverflowError):
        return Tiff(data)  # Pillow has the last word on what is broken
    try:
        return _brought(data, found)
    except (struct.error, ValueError, OverflowError) as error:
        raise CorruptImage("the TIFF's pixels are not where its directory says; save it again.") from error


def _brought(data: bytes, found: Directory) -> Tiff:
    bits, extra = _bits(found), found.all(EXTRA)
    compression, photometric = found.one(COMPRESSION, _UNCOMPRESSED), found.one(PHOTOMETRIC, 0)
    sample_format = found.one(FORMAT, 1)
    for side, of_tile in ((WIDTH, TILE_WIDTH), (HEIGHT, TILE_HEIGHT)):
        if found.one(of_tile, 0) > found.one(side, 0) + _LARGEST_PADDING:
            raise ValueError("a tile that no picture needs")
    name = _name(found) if found.is_whole else ""
    made = Tiff(data, name, compression, signed=sample_format == 2 and set(bits) == {8})
    changed, body = found, data
    if compression == _UNCOMPRESSED:
        changed = changed.having({PREDICTOR: (_SHORT, [1])}) if PREDICTOR in found.tags else changed  # has no effect
        if found.one(FILL_ORDER, 1) == 2:
            changed, body = changed.having({FILL_ORDER: (_SHORT, [1])}), data.translate(_REVERSED)
        in_planes = found.one(PLANES, 1) == _IN_PLANES
        if photometric == _YCBCR or (in_planes and (set(bits) == {16} or (set(bits) == {8} and extra))):
            changed, body = _stored(body, changed)
    if photometric in (0, 1) and sample_format == 1:
        made, changed = _grey(made, changed, bits, extra)
    order = "<" if bits == (12,) else found.order
    if changed is found and not found.big and order == found.order:
        return made
    return replace(made, data=written(body, replace(changed, order=order)))


def _grey(made: Tiff, found: Directory, bits: tuple[int, ...], extra: tuple[int, ...]) -> tuple[Tiff, Directory]:
    if found.one(PHOTOMETRIC, 0) == 0 and (bits in ((12,), (16,)) or (len(bits) == 2 and len(extra) == 1)):
        made, found = replace(made, white_is_zero=True), found.having({PHOTOMETRIC: (_SHORT, [1])})
    if bits == (12,):
        return replace(made, white=4095), found
    if bits not in ((8, 8), (16, 16)) or len(extra) != 1:
        return made, found
    if found.one(PLANES, 1) == _IN_PLANES:
        return replace(made, grey_alpha_planes=True, alpha=extra[0]), _as_red_and_green(found, bits)
    if bits == (16, 16):
        if found.one(PREDICTOR, 1) == _DIFFERENCES:
            columns, orientation = found.one(TILE_WIDTH, found.one(WIDTH, 0)), found.one(ORIENTATION, 1)
            made = replace(made, differences=columns, orientation=orientation)
            found = found.having({ORIENTATION: (_SHORT, [1])})
        made = replace(made, grey_alpha=f"{found.order}u2", alpha=extra[0])
        as_bytes = {BITS: [8] * 4, PHOTOMETRIC: [_RGB], SAMPLES: [4], PREDICTOR: [1], EXTRA: [2], FORMAT: [1] * 4}
        return made, found.having({tag: (_SHORT, numbers) for tag, numbers in as_bytes.items()})
    return made, found


def _as_red_and_green(found: Directory, bits: tuple[int, ...]) -> Directory:
    """Return planes of grey and alpha as three of colour, of which the last is the second once more."""
    changes: dict[int, tuple[int, list[int]]] = {
        BITS: (_SHORT, [bits[0]] * 3),
        PHOTOMETRIC: (_SHORT, [_RGB]),
        SAMPLES: (_SHORT, [3]),
        FORMAT: (_SHORT, [1] * 3),
    }
    for tag in found.parts:
        numbers = list(found.all(tag))
        changes[tag] = _LONG, numbers + numbers[len(numbers) // 2 :]
    return found.having(changes, without=EXTRA)


def _stored(data: bytes, found: Directory) -> tuple[Directory, bytes]:
    """Return strips or tiles as Deflate that compresses nothing."""
    offsets, lengths = found.parts
    places = found.all(offsets)
    sizes = found.all(lengths, [len(data) - at for at in places[:1]])
    if sum(sizes) > len(data):
        raise ValueError("strips that overlap")
    parts = [zlib.compress(data[at : at + size], 0) for at, size in zip(places, sizes, strict=True)]
    starts = np.cumsum([0, *map(len, parts)])[:-1].tolist()
    changes = {COMPRESSION: [_DEFLATE], offsets: starts, lengths: [len(part) for part in parts]}
    return found.having({tag: (_LONG, numbers) for tag, numbers in changes.items()}), b"".join(parts)


def summed(image: Image.Image, tiff: Tiff) -> None:
    """Add up the differences between neighbours, of which libtiff was not told, and say how the image is to be turned."""
    if not tiff.differences:
        return
    width, height = image.size
    pixels = np.array(image)
    both = pixels.view(tiff.grey_alpha).reshape(height, width, 2)
    for left in range(0, width, tiff.differences):
        part = both[:, left : left + tiff.differences]
        part[...] = np.cumsum(part, axis=1, dtype=np.uint16)
    image.paste(Image.fromarray(pixels))
    image.getexif()[ORIENTATION] = tiff.orientation


def finished(image: Image.Image, tiff: Tiff) -> Image.Image:
    """Return what Pillow read of a TIFF as grey or colour that the common rules hold for: 8-bit, or 16-bit up to 65,535.

    Raises:
        UnsupportedMode: signed values below zero have no brightness.
    """
    if tiff.signed and image.mode == "L" and int(np.asarray(image).max()) > 127:
        raise UnsupportedMode(f"the TIFF is of {tiff.name} with values below zero; convert it to unsigned ones.")
    if tiff.grey_alpha:
        return _grey_with_alpha(image, tiff)
    if tiff.grey_alpha_planes:
        red, green, _ = image.split()
        image = Image.merge("La" if tiff.alpha == 1 else "LA", [red, green]) if tiff.alpha else red
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


def unreadable(tiff: Tiff) -> ImageRefused:
    """Return the refusal of what Pillow does not take for a TIFF that it reads."""
    if not tiff.name:
        return CorruptImage("the TIFF's directory is broken or cut off; save it again.")
    if tiff.compression not in COMPRESSION_INFO:
        name = _COMPRESSIONS.get(tiff.compression, f"kind {tiff.compression}")
        return UnsupportedMode(f"the TIFF's compression is {name}, which is not read; save it with LZW or Deflate.")
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


def _bits(found: Directory) -> tuple[int, ...]:
    bits = found.all(BITS, (1,))
    samples = min(found.one(SAMPLES, len(bits)), 16)  # as many as Pillow takes at most
    return bits[:samples] if len(bits) > 1 else bits * samples


def _name(found: Directory) -> str:
    photometric, sample_format = found.one(PHOTOMETRIC, 0), found.one(FORMAT, 1)
    bits = ", ".join(map(str, _bits(found)))
    planes = ", in planes" if found.one(PLANES, 1) == _IN_PLANES else ""
    kind = _FORMATS.get(sample_format, f"unknown ({sample_format})")
    return f"{_NAMES.get(photometric, f'colour kind {photometric}')}, {kind}, of {bits} bits{planes}"
