"""How fast images are decoded and computed now, from what has just ended."""

from __future__ import annotations

import math
import threading


class Pace:
    """A mean of seconds an image over some `passes` of late; thread-safe."""

    def __init__(self, passes: int) -> None:
        self._kept = 1 - 1 / passes  # of what is known, at each further pass
        self._seconds = 0.0
        self._images = 0.0
        self._ended = -math.inf  # when the last pass did
        self._lock = threading.Lock()

    def passed(self, images: int, begun: float, ended: float) -> None:
        """Count a pass (monotonic seconds); of two that ran side by side, the time that they shared counts once."""
        with self._lock:
            self._seconds = self._kept * self._seconds + max(0.0, ended - max(begun, self._ended))
            self._images = self._kept * self._images + images
            self._ended = max(self._ended, ended)

    @property
    def seconds_per_image(self) -> float:
        """Return the mean; 0 before the first pass."""
        with self._lock:
            return self._seconds / self._images if self._images else 0.0
