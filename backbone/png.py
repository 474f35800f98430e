"""Transparent colour of a PNG (tRNS), in the values that the file has: Pillow compares it with values that it has scaled.

A colour of 2 or 4 bits is scaled here as the pixels are. Of 16 bits a channel Pillow keeps the upper 8 of a colour, in which many are
one: the lower 8 are read, too, where that matters, and what is transparent becomes white, over which it would be composited.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_GREY_16, _RGB_16 = "I;16B", "RGB;16B"  # as PNG stores them, by Pillow's names
_LOWER_BYTES = "RGB;16L"  # what is the upper byte in the other order
_SCALES = {
    "L;2": (3, 85),
    "L;4": (15, 17),
    "L": (255, 1),
    "RGB": (255, 1),
}  # the highest value of a file, and what it is times


def whitening(
    image: Image.Image, data: bytes, upright: Callable[[Image.Image], Image.Image]
) -> Callable[[], Image.Image]:
    """Look at a PNG that was opened and not loaded yet; return what gives it right when it is loaded and upright.

    Args:
        image: as it was opened from `data`, and is loaded later.
        data: the file.
        upright: how the image is turned.
    """
    key = image.info.get("transparency")
    stored = image.tile[0].args if image.tile else None  # type: ignore[attr-defined]
    if image.mode == "P" or not isinstance(key, int | tuple):
        return lambda: image
    if stored == _GREY_16:
        return lambda: _white_where(np.array(image), np.asarray(image) == key)
    if stored == _RGB_16:
        colour = np.asarray(key)
        return lambda: _white_where(
            np.array(image),
            ((np.asarray(image) == colour >> 8) & (np.asarray(upright(_lower_bytes(data))) == colour & 255)).all(
                axis=-1
            ),
        )
    if stored in _SCALES:
        highest, times = _SCALES[stored]
        scaled = [(value & highest) * times for value in (key if isinstance(key, tuple) else (key,))]
        image.info["transparency"] = tuple(scaled) if isinstance(key, tuple) else scaled[0]
    return lambda: image


def _white_where(pixels: NDArray[Any], transparent: NDArray[np.bool_]) -> Image.Image:
    pixels[transparent] = np.iinfo(pixels.dtype).max
    return Image.fromarray(pixels)


def _lower_bytes(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        image.tile = [tile._replace(args=_LOWER_BYTES) for tile in image.tile]
        image.load()
        return image
