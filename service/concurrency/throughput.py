"""Throughput as an exponential mean: how long an item takes now, be it an image decoded or embedded, or a query searched for."""

from __future__ import annotations

import math
import threading


class Throughput:
    """A mean of the seconds that each item took over some `passes` of late; thread-safe."""

    def __init__(self, passes: int) -> None:
        self._decay = 1 - 1 / passes  # of what is known, at each further pass
        self._seconds = 0.0
        self._items = 0.0
        self._last_ended = -math.inf
        self._lock = threading.Lock()

    def record(self, items: int, begun: float, ended: float) -> None:
        """Count a pass (monotonic seconds); of two that ran side by side, the time that they shared counts once."""
        with self._lock:
            self._seconds = self._decay * self._seconds + max(0.0, ended - max(begun, self._last_ended))
            self._items = self._decay * self._items + items
            self._last_ended = max(self._last_ended, ended)

    @property
    def seconds_per_item(self) -> float:
        """Return the mean; 0 before the first pass."""
        with self._lock:
            return self._seconds / self._items if self._items else 0.0
