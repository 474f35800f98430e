"""One colour in every mode, and the RGB that the rules of `backbone/decode.py` make of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pictures import encoded
from PIL import Image

SIZE = (64, 48)
RGB = tuple[int, int, int]


def ycck(ink: tuple[int, int, int, int]) -> bytes:
    """A JPEG as Photoshop writes print: inks as YCbCr, the black inverted, and Adobe's marker with transform 2.

    Pillow writes no YCCK. What it writes of CMYK it inverts, so it is given the complement of what is to be stored.
    """
    luma_and_chroma = Image.new("RGB", (1, 1), ink[:3]).convert("YCbCr").getpixel((0, 0))
    assert isinstance(luma_and_chroma, tuple)
    stored = tuple(255 - value for value in luma_and_chroma)
    data = bytearray(encoded(Image.new("CMYK", SIZE, (*stored, ink[3])), "JPEG", quality=100))
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    data[at] = 2
    return bytes(data)


def palette(colour: RGB, alpha: bytes) -> bytes:
    image = Image.new("P", SIZE, 0)
    image.putpalette([*colour, 0, 0, 0])
    return encoded(image, transparency=alpha)


def grey16(value: int) -> bytes:
    return encoded(Image.fromarray(np.full(SIZE[::-1], value, np.uint16)))


def plain(mode: str, colour: int | tuple[int, ...], kind: str = "PNG") -> bytes:
    return encoded(Image.new(mode, SIZE, colour), kind, **({"quality": 100} if kind == "JPEG" else {}))


COLOURS: dict[str, tuple[Callable[[], bytes], RGB]] = {
    "1": (lambda: plain("1", 1), (255, 255, 255)),
    "L": (lambda: plain("L", 77), (77, 77, 77)),
    "LA, a fifth": (lambda: plain("LA", (100, 51)), (224, 224, 224)),  # 100 / 5 + 255 * 4 / 5
    "RGBA, a fifth": (lambda: plain("RGBA", (200, 100, 0, 51)), (244, 224, 204)),
    "RGBA, clear": (lambda: plain("RGBA", (200, 100, 0, 0)), (255, 255, 255)),
    "P with tRNS, a fifth": (lambda: palette((200, 100, 0), b"\x33\xff"), (244, 224, 204)),
    "P with tRNS, clear": (lambda: palette((200, 100, 0), b"\x00\xff"), (255, 255, 255)),
    "I;16, rounded down": (lambda: grey16(25_828), (100, 100, 100)),  # 100.498
    "I;16, rounded up": (lambda: grey16(25_829), (101, 101, 101)),  # 100.502
    "CMYK": (lambda: plain("CMYK", (0, 128, 255, 51), "JPEG"), (204, 102, 0)),  # (1 - ink) (1 - black)
    "YCCK": (lambda: ycck((0, 128, 255, 51)), (204, 102, 0)),
    "YCbCr": (lambda: plain("RGB", (200, 100, 50), "JPEG"), (200, 100, 50)),
}
