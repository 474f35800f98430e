"""One event loop answers everybody, so who has much to do there gives others their turn.

A thread would not help: parsing and writing JSON or base64 holds Python's lock until it is done, wherever it runs. So such work is cut
into pieces of a few milliseconds.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

TURN_S: Final = 0.005  # then others are let in; a round of the loop costs a thousandth of that


class Yielder:
    """The turns of one request."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    async def yield_if_due(self) -> None:
        """Let others in, if this turn has lasted long enough."""
        if time.perf_counter() - self._since > TURN_S:
            await asyncio.sleep(0)
            self._since = time.perf_counter()
