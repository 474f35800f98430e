"""The readiness probe of an embedder: an image of our own is embedded, and must come out as it did the first time."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MIN_COSINE: Final = 0.999  # of two times the same image: what reduced precision and another batch may change


class ReadinessProbe:
    """Embeds one image of our own; used by the event loop alone."""

    def __init__(self, embed: Callable[[bytes], Awaitable[NDArray[np.float32] | None]]) -> None:
        self._embed = embed  # None: it was refused
        self._image = _image()
        self._reference: NDArray[np.float32] | None = None
        self._running: asyncio.Task[bool] | None = None

    async def passes(self) -> bool:
        """Say whether an image sent now would be embedded; however many ask at a time, one is embedded for all of them."""
        if self._running is None or self._running.done():
            self._running = asyncio.ensure_future(self._probe())
        return await asyncio.shield(self._running)

    async def _probe(self) -> bool:
        vector = await self._embed(self._image)
        if vector is None:
            return False
        if self._reference is None:
            self._reference = vector
        return float(vector @ self._reference) >= MIN_COSINE


def _image() -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(file, "PNG")
    return file.getvalue()
