"""How fast work is done now, be it images decoded or embedded, or queries searched for, from what has just ended."""

from __future__ import annotations

import math
import threading


class Throughput:
    """A mean of the seconds that each item took over some `passes` of late; thread-safe."""

    def __init__(self, passes: int) -> None:
        self._kept = 1 - 1 / passes  # of what is known, at each further pass
        self._seconds = 0.0
        self._items = 0.0
        self._ended = -math.inf  # when the last pass did
        self._lock = threading.Lock()

    def record(self, items: int, begun: float, ended: float) -> None:
        """Count a pass (monotonic seconds); of two that ran side by side, the time that they shared counts once."""
        with self._lock:
            self._seconds = self._kept * self._seconds + max(0.0, ended - max(begun, self._ended))
            self._items = self._kept * self._items + items
            self._ended = max(self._ended, ended)

    @property
    def seconds_each(self) -> float:
        """Return the mean; 0 before the first pass."""
        with self._lock:
            return self._seconds / self._items if self._items else 0.0
