"""Would an image that is sent now be embedded? An image of our own is, and comes out as it did the first time."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CANARY_COSINE: Final = 0.999  # of two times the same image: what reduced precision and another batch may change


class ReadinessProbe:
    """One image of our own; used by the event loop alone."""

    def __init__(self, embed: Callable[[bytes], Awaitable[NDArray[np.float32] | None]]) -> None:
        self._embed = embed  # None: it was refused
        self._image = _image()
        self._first: NDArray[np.float32] | None = None
        self._running: asyncio.Task[bool] | None = None

    async def passes(self) -> bool:
        """Say whether it does; however many ask at a time, one image is embedded for all of them."""
        if self._running is None or self._running.done():
            self._running = asyncio.ensure_future(self._try())
        return await asyncio.shield(self._running)

    async def _try(self) -> bool:
        vector = await self._embed(self._image)
        if vector is None:
            return False
        if self._first is None:
            self._first = vector
        return float(vector @ self._first) >= CANARY_COSINE


def _image() -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(file, "PNG")
    return file.getvalue()
