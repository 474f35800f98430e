"""A priority queue with aging: interactive items before bulk, and none waits for ever.

Bulk waits as if it had come BULK_DELAY_S later. So a person's query overtakes the thousand pictures of a job, and a stream of
queries holds the job up by so much and no more.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

BULK_DELAY_S = 2.0  # what nobody notices of an upload of many pictures, and everybody of a query


class PriorityQueue(Generic[T]):
    """Items that wait for a worker, those first that came first or are interactive; thread-safe."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._number = itertools.count()  # equal priorities in the order of arrival
        self._changed = threading.Condition()
        self._open = True

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, item: T, bulk: bool) -> bool:
        """Let an item wait; say whether the queue is open, for else it does not."""
        with self._changed:
            if self._open:
                priority = time.monotonic() + BULK_DELAY_S * bulk
                heapq.heappush(self._heap, (priority, next(self._number), item))
                self._changed.notify()
            return self._open

    def take(self, max_items: int = 1, wait_s: float = 0.0, more_coming: Callable[[], bool] = lambda: False) -> list[T]:
        """Wait for items and return up to `max_items`, the first ones; none: the queue is closed and empty.

        While `more_coming` says that others are about to be put, `wait_s` are waited for them.
        """
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._heap or not self._open)
                self._wait_for_more(max_items, wait_s, more_coming)
                if self._heap or not self._open:  # else another worker took what was there
                    return [heapq.heappop(self._heap)[2] for _ in range(min(max_items, len(self._heap)))]

    def _wait_for_more(self, max_items: int, wait_s: float, more_coming: Callable[[], bool]) -> None:
        end = time.monotonic() + wait_s
        while self._open and len(self._heap) < max_items and more_coming():
            left_s = end - time.monotonic()
            if left_s <= 0:
                return
            self._changed.wait(left_s)

    def close(self) -> None:
        """Let nothing more in; what waits is still taken."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
