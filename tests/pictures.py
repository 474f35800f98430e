"""Pictures made in code: tests keep no binary files."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def picture(width: int = 48, height: int = 40, seed: int = 0) -> Image.Image:
    """Colour noise, smooth enough for JPEG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()
