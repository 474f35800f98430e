"""Bytes to RGB pixels, cheapest check first, so that hostile bytes cost microseconds and a good image decodes everywhere alike.

Order: length, signature, chunk count, scan count (JPEG), header (sides, pixels, shape, mode), and only then the decoder. Rules of
conversion, which are part of an artifact's fingerprint (`DECODE_RULES`):

- EXIF orientation is applied; a malformed EXIF block is ignored.
- One channel (1, L) is repeated three times. 16-bit grey is scaled to 8 bits (value / 257, rounded), TIFF's 12-bit grey likewise;
  of 16-bit colour the upper 8 bits are taken, at most one level away.
- Transparency (LA, RGBA, palettes with alpha, a PNG's transparent colour) is composited over white, as a browser shows it.
- WhiteIsZero is inverted, whatever its bits and order (`backbone/tiff.py`).
- CMYK and YCCK (Adobe's inverted kind too), YCbCr, LAB, HSV and palettes convert as Pillow does, without colour profiles.
- 32-bit integer and float images are refused: their range is not known, unless it is given (`ValueRange`), as it may be of 16-bit grey.
- HEIC and AVIF are turned and mirrored as their own properties say, whatever EXIF says beside, and come in 8 bits.
- Of an animation, the first frame. A truncated file is refused, never filled with grey.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from backbone.chunks import check_chunks
from backbone.errors import (
    CorruptImage,
    EmptyImage,
    ImageRefused,
    ImageTooSmall,
    TooManyBytes,
    TooManyPixels,
    UnsupportedImageType,
    UnsupportedMode,
)
from backbone.formats import ALL_FORMATS as ALL_FORMATS
from backbone.formats import HOW_TO_GET, INSTALLED_FORMATS, PILLOW_NAMES, image_format, load_decoders
from backbone.formats import SERVICE_FORMATS as SERVICE_FORMATS
from backbone.heif import check_boxes
from backbone.jpeg import Outline, outline
from backbone.png import whitening
from backbone.tiff import WHITE, Tiff, finished, readable, summed, unreadable
from backbone.value_range import ValueRange

# Every block of 8 x 8 pixels takes at least one bit of Huffman code, in a progressive image, too (the first scan of its means has no
# runs). Where there are fewer, libjpeg fills what is missing with grey. Arithmetic coding has no such bound: a blank image of any size
# takes a few bytes. What is left there is the end of image: libjpeg reads none of that kind without it.
_MOST_PIXELS_PER_JPEG_BYTE = 8 * 64

DECODE_RULES: dict[str, Any] = {
    "orientation": "exif",
    "alpha": "over_white",
    "grey16": "divide_257",
    "frame": "first",
    "jpeg_draft": "smallest_of_1_2_4_8_that_covers_resize",
    "version": 1,
}

# As `warnings` keeps it. Pillow's remarks on odd metadata are of no use here.
_PILLOW_IGNORED = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


@dataclass(frozen=True)
class DecodeLimits:
    """The limits of what an image may cost; each is checked before the work that it limits."""

    max_bytes: int = 20 * 2**20  # a 50-megapixel photograph at high quality stays under 20 MiB
    max_pixels: int = 50_000_000  # the largest common camera sensors; 50 MP in RGB is 150 MB of memory
    max_side: int = 30_000  # beyond a panorama of 50 MP; formats allow 65,500 and more
    max_aspect: int = 100  # a longer strip has no centre crop worth the name, and its resize would be huge
    max_scans: int = 100  # cameras write up to 10; each scan of a bomb costs 6 ms of one core
    max_chunks: int = 1_000  # beside those of pixels: 20 MiB of metadata are 320 full segments; an empty one costs 5 us
    formats: tuple[str, ...] = INSTALLED_FORMATS


def decode(
    data: bytes,
    limits: DecodeLimits | None = None,
    cover: int | None = None,
    value_range: ValueRange | None = None,
) -> Image.Image:
    """Decode one image to upright RGB.

    Args:
        data: the encoded image.
        limits: what it may cost; `DecodeLimits()` where it is None.
        cover: the short side that a later resize will produce, in pixels. A JPEG is then decoded at the smallest of 1, 1/2, 1/4 and
            1/8 whose sides still cover that resize (Pillow's `draft`).
        value_range: what is black and white in grey of 16 and 32 bits; None takes all of 16 bits, and no 32.

    Returns:
        A Pillow image of mode RGB.

    Raises:
        ImageRefused: a subclass that says why.
    """
    limits = limits or DecodeLimits()
    _ignore_pillow_warnings()
    kind = check_signature(data, limits)
    check_chunks(data, kind, limits.max_chunks)
    if kind in ("AVIF", "HEIC"):
        check_boxes(data, limits.max_chunks)
        load_decoders((kind,))
    jpeg = outline(data, limits.max_scans, limits.max_chunks) if kind == "JPEG" else None
    with refusals():
        if kind == "TIFF":
            return _tiff(data, limits, value_range)
        with Image.open(io.BytesIO(data), formats=[PILLOW_NAMES.get(kind, kind)]) as image:
            _check_header(image, limits, jpeg)
            if kind == "JPEG":
                image.decodermaxblock = len(data)  # in pieces, libjpeg reads a run of 0xFF anew with every piece
                if cover is not None:
                    image.draft(image.mode, resized_size(image.size, cover))
            finish = whitening(image, data, _upright) if kind == "PNG" else lambda: image
            image.load()
            _upright(image)
            return to_rgb(finish(), value_range)


def resized_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Return the (width, height) of an image of `size` whose short side is brought to `short_side`; the long side is truncated."""
    width, height = size
    if width <= height:
        return short_side, max(int(short_side * height / width), 1)
    return max(int(short_side * width / height), 1), short_side


def to_rgb(image: Image.Image, value_range: ValueRange | None = None) -> Image.Image:
    """Convert any mode with a documented rule to RGB.

    Raises:
        UnsupportedMode: 32-bit integer and float images without a range.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image if type(image) is Image.Image else image.copy()
    if value_range is not None and (image.mode.startswith("I;16") or image.mode in ("I", "F")):
        return Image.fromarray(value_range.in_8_bits(np.asarray(image))).convert("RGB")
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UnsupportedMode(
            f"images of mode {image.mode} have no fixed range; convert the file to 8 or 16 bits, or give the range of its values."
        )
    if image.mode == "La":  # Pillow takes it to RGBA by no other way
        image = image.convert("LA")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def check_signature(data: bytes, limits: DecodeLimits) -> str:
    """Return the format of encoded bytes by their first few; reads no more, so that it costs nothing wherever it is asked.

    Raises:
        EmptyImage, TooManyBytes, UnsupportedImageType: it is no image that `limits` let through.
    """
    if not data or (len(data) < 64 and not data.strip()):
        raise EmptyImage("the image is empty; send the bytes of an image file.")
    if len(data) > limits.max_bytes:
        raise TooManyBytes(
            f"the image has {len(data):,} bytes and the limit is {limits.max_bytes:,}; send a smaller one."
        )
    kind = image_format(data)
    if kind is None or kind not in limits.formats:
        these = "these bytes are not" if kind is None else f"these bytes are {kind}, which is not"
        how = (
            f" {kind} is read after {HOW_TO_GET[kind]}."
            if limits.formats == INSTALLED_FORMATS and kind is not None
            else ""
        )
        raise UnsupportedImageType(f"{these} an accepted image type; accepted are {', '.join(limits.formats)}.{how}")
    return kind


def _ignore_pillow_warnings() -> None:
    """Let Pillow warn of nothing, where it does not yet: filters are the process's, and decoding runs in many threads.

    Asked for with every image, because whoever leaves a `warnings.catch_warnings` takes back what was set inside of it.
    """
    if _PILLOW_IGNORED not in warnings.filters:
        warnings.filterwarnings("ignore", module=_PILLOW_IGNORED[3].pattern)


def highest_grey(data: bytes, limits: DecodeLimits | None = None) -> int | None:
    """Return the highest value of an image of 16-bit grey, as it is stored; None for every other image.

    Raises:
        ImageRefused: as `decode`, as far as it is looked at.
    """
    limits = limits or DecodeLimits()
    _ignore_pillow_warnings()
    kind = check_signature(data, limits)
    if kind not in ("PNG", "TIFF"):
        return None
    check_chunks(data, kind, limits.max_chunks)
    with refusals():
        tiff = readable(data, limits.max_chunks) if kind == "TIFF" else Tiff(data)
        with Image.open(io.BytesIO(tiff.data), formats=[kind]) as image:
            _check_header(image, limits, None)
            return int(np.asarray(image).max()) if image.mode.startswith("I;16") and tiff.white == WHITE else None


def _tiff(data: bytes, limits: DecodeLimits, value_range: ValueRange | None) -> Image.Image:
    tiff = readable(data, limits.max_chunks)
    try:
        image = Image.open(io.BytesIO(tiff.data), formats=["TIFF"])
    except UnidentifiedImageError as error:
        raise unreadable(tiff) from error
    with image:
        _check_header(image, limits, None)
        image.load()
        summed(image, tiff)
        if tiff.white != WHITE:  # the file says its range itself
            value_range = None
        elif value_range is not None and tiff.white_is_zero:
            value_range = value_range.inverted(WHITE)
        return to_rgb(finished(_upright(image), tiff), value_range)


def _check_header(image: Image.Image, limits: DecodeLimits, jpeg: Outline | None) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise CorruptImage("the image has no pixels; save it again.")
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise TooManyPixels(
            f"the image is {width:,} x {height:,} pixels and the limits are {limits.max_pixels:,} in all "
            f"and {limits.max_side:,} a side; send a smaller one."
        )
    if max(width, height) > limits.max_aspect * min(width, height):
        raise ImageTooSmall(
            f"the image is {width:,} x {height:,} pixels, narrower than 1:{limits.max_aspect}; crop it first."
        )
    if jpeg is not None and not jpeg.arithmetic and width * height > _MOST_PIXELS_PER_JPEG_BYTE * jpeg.end:
        raise CorruptImage(f"the JPEG has too few bytes for {width:,} x {height:,} pixels; save it again.")


def _upright(image: Image.Image) -> Image.Image:
    # The EXIF block is a stranger's: Pillow's parser raises a dozen kinds, and the pixels are good.
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)  # most images are upright, and a copy of 50 megapixels is 200 MB
    return image


@contextmanager
def refusals() -> Iterator[None]:
    """Turn whatever work on an image raises into its refusal: the bytes are a stranger's, and the exceptions of every kind."""
    try:
        yield
    except ImageRefused:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise TooManyPixels("the image unpacks to more pixels than any camera writes; send a smaller one.") from error
    except MemoryError as error:
        raise TooManyPixels("the image needs more memory than there is; send a smaller one.") from error
    except Exception as error:
        raise CorruptImage(f"the image cannot be decoded ({_reason(error)}); save it again.") from error


def _reason(error: Exception) -> str:
    """A decoder's own words, without an object's address or a path of this machine."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return "not a readable image" if "0x" in text or "/" in text else text[:120]
