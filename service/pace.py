"""How fast images are computed now, from the passes that have just ended."""

from __future__ import annotations

import math
import threading
from typing import Final

_KEPT: Final = 0.8  # of what is known, at each further pass: a mean over some five of them


class Pace:
    """A mean of seconds an image that forgets; thread-safe."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._images = 0.0
        self._ended = -math.inf  # when the last pass did
        self._lock = threading.Lock()

    def passed(self, images: int, begun: float, ended: float) -> None:
        """Count a pass (monotonic seconds); of two that ran side by side, the time that they shared counts once."""
        with self._lock:
            self._seconds = _KEPT * self._seconds + max(0.0, ended - max(begun, self._ended))
            self._images = _KEPT * self._images + images
            self._ended = max(self._ended, ended)

    @property
    def seconds_per_image(self) -> float:
        """Return the mean; 0 before the first pass."""
        with self._lock:
            return self._seconds / self._images if self._images else 0.0
