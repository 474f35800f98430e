"""Stop signals: SIGTERM and Ctrl-C as a wish to stop that the run grants between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class StopSignals:
    """Holds SIGTERM and SIGINT while a run goes on. Lightning's own handlers would raise in the middle of a step."""

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}

    def take(self, ask: Callable[[], None]) -> None:
        """Call `ask` on each of the two signals from now on; only the main thread of a process receives any."""
        if threading.current_thread() is not threading.main_thread():
            return

        def handle(number: int, frame: FrameType | None) -> None:
            ask()

        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, handle)

    def give_back(self) -> None:
        """Put back the handlers that were there before; a second call does nothing."""
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)
