"""A rate limiter with a token bucket for each key, so that one caller's flood is that caller's alone."""

from __future__ import annotations

import time
from typing import Final

BURST_S: Final = 2.0  # of the rate may come at once: a page with its pictures, after which the rate holds


class RateLimiter:
    """Token buckets by key; one for all where no key is needed. Used by the event loop alone.

    There are as many as valid keys, since only who has one gets this far.
    """

    def __init__(self, requests_per_s: float) -> None:
        self._requests_per_s = requests_per_s  # 0 is no limit
        self._capacity = max(1.0, requests_per_s * BURST_S)
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, and when there were as many (monotonic seconds)

    def wait_s(self, key: str) -> float:
        """Take a token; return 0, or the seconds until there will be one."""
        if self._requests_per_s == 0:
            return 0.0
        now = time.monotonic()
        tokens, at = self._buckets.get(key, (self._capacity, now))
        tokens = min(self._capacity, tokens + (now - at) * self._requests_per_s)
        if tokens < 1:
            self._buckets[key] = tokens, now
            return (1 - tokens) / self._requests_per_s
        self._buckets[key] = tokens - 1, now
        return 0.0
