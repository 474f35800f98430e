"""Cooperative yielding: long work on the event loop lets others in every few milliseconds, for one loop answers everybody.

A thread would not help: parsing and writing JSON or base64 holds Python's lock until it is done, wherever it runs. So such work is cut
into slices of a few milliseconds.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

TIME_SLICE_S: Final = 0.005  # then others are let in; a round of the loop costs a thousandth of that


class Yielder:
    """The time slices of one request."""

    def __init__(self) -> None:
        self._slice_began = time.perf_counter()

    async def yield_if_due(self) -> None:
        """Let others in, if this slice has lasted long enough."""
        if time.perf_counter() - self._slice_began > TIME_SLICE_S:
            await asyncio.sleep(0)
            self._slice_began = time.perf_counter()
