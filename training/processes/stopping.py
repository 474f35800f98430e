"""Stop signals: SIGTERM and Ctrl-C as a wish to stop that the run grants between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from training.errors import LoadingStopped

PATIENCE_S = 8.0  # for images that do not come, after a wish to stop: `docker stop` kills after ten
_AGAIN_S = 1.0  # and then looked at so often, where something else took the time


class StopSignals:
    """Holds SIGTERM and SIGINT while a run goes on. Lightning's own handlers would raise in the middle of a step."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._before: dict[signal.Signals, Any] = {}

    def take(self, ask: Callable[[], None], waiting: Callable[[], bool]) -> None:
        """Call `ask` on each of the two signals from now on; only the main thread of a process receives any.

        Args:
            ask: notes the wish.
            waiting: says whether the run waits for images. Where it still does when its patience is over, no step may ever come that
                it could stop after, and LoadingStopped is raised in the main thread.
        """
        if threading.current_thread() is not threading.main_thread() or self._before:
            return

        def handle(number: int, frame: FrameType | None) -> None:
            ask()
            signal.setitimer(signal.ITIMER_REAL, self._patience_s, _AGAIN_S)

        def look(number: int, frame: FrameType | None) -> None:
            if waiting():
                signal.setitimer(signal.ITIMER_REAL, 0)
                raise LoadingStopped(
                    f"stopped without the images of the next step, which did not come for {self._patience_s:g} s; go on with --resume."
                )

        for number, handler in ((signal.SIGALRM, look), (signal.SIGTERM, handle), (signal.SIGINT, handle)):
            self._before[number] = signal.signal(number, handler)

    def give_back(self) -> None:
        """Put back the handlers that were there before; a second call does nothing."""
        if signal.SIGALRM in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)
