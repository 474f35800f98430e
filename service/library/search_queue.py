"""The queue of searches: so many run at once, others wait for no longer than a request may, and beyond that they are refused.

What waits is on the event loop alone and costs no thread, so that those of all other routes stay free.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from service.concurrency.flat_combining import MAX_COMBINED
from service.concurrency.throughput import Throughput
from service.errors import DeadlinePassed, Saturated

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Slot:
    """The place of one request among those that run, once it is granted."""

    queries: int  # that the request holds
    granted: asyncio.Event = field(default_factory=asyncio.Event)


class SearchQueue:
    """The queue in front of all searches of a service. Used by the event loop alone.

    Each search has a thread. More of them run than there are cores, for searches of one collection that come at the same time are
    answered together, on so many threads as there are cores (`service.concurrency.flat_combining`). On two cores, 32 at once answered
    1.7 to 2 times as many as two did through an index, and 0.9 times as many of those that compare each of 100,000 vectors.

    Args:
        threads: of one search; at least so many searches run at once.
        queue_searches: that may wait.
        queue_wait_s: seconds of work that may wait in front of a search.
        embed_timeout_s: seconds that a search may wait.
    """

    def __init__(self, threads: int, queue_searches: int, queue_wait_s: float, embed_timeout_s: float) -> None:
        self._max_running = max(MAX_COMBINED, threads)
        self._queue_searches = queue_searches
        self._queue_wait_s = min(queue_wait_s, embed_timeout_s)
        self._embed_timeout_s = embed_timeout_s
        self._threads = CapacityLimiter(self._max_running)  # one for each slot that is granted, so that none waits here
        self._running = 0
        self._waiting: dict[Slot, None] = {}  # in the order of arrival
        self._waiting_queries = 0
        self._ended = 0
        self._throughput = Throughput(passes=4 * self._max_running)  # what runs at once ends at once, so a few rounds

    @property
    def running(self) -> int:
        """Return how many searches have a thread."""
        return self._running

    @property
    def waiting(self) -> int:
        """Return how many searches wait for one."""
        return len(self._waiting)

    def refusal(self) -> Saturated | None:
        """Return the error that one more search would meet now; None where there is room."""
        if self._running < self._max_running:
            return None
        if self.waiting >= self._queue_searches:
            return Saturated(
                f"{self.waiting} searches wait and the limit is {self._queue_searches}; come back in a second."
            )
        takes_s = self._waiting_queries * self._throughput.seconds_per_item
        # Of a first round the first to end seems to have taken the time of all.
        if self._ended >= self._max_running and takes_s > self._queue_wait_s:
            return Saturated(
                f"the searches that wait take {takes_s:.0f} s, longer than one more may wait; come back in some seconds."
            )
        return None

    @contextmanager
    def slot(self, queries: int) -> Iterator[Slot]:
        """Wait for a slot inside the block, and hold it from when it is granted. Raises Saturated."""
        if (refusal := self.refusal()) is not None:
            raise refusal
        slot = Slot(queries)
        self._waiting[slot] = None
        self._waiting_queries += queries
        self._grant()
        try:
            yield slot
        finally:
            if slot.granted.is_set():
                self._running -= 1
                self._grant()
            else:
                self._remove(slot)

    async def wait_until_granted(self, slot: Slot) -> None:
        """Wait for a slot. Raises DeadlinePassed."""
        try:
            async with asyncio.timeout(self._embed_timeout_s):
                await slot.granted.wait()
        except TimeoutError:
            raise DeadlinePassed("the search waited longer than its request may take; send it again later.") from None

    async def run(self, slot: Slot, work: Callable[[], T]) -> T:
        """Search in a thread, once the slot is granted. Raises what `work` raises."""
        assert slot.granted.is_set()
        begun = time.monotonic()
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._threads)
        finally:
            self._ended += 1
            self._throughput.record(slot.queries, begun, time.monotonic())

    def _grant(self) -> None:
        """Grant slots to the first that wait, while there are any."""
        while self._waiting and self._running < self._max_running:
            slot = next(iter(self._waiting))
            self._remove(slot)
            self._running += 1
            slot.granted.set()

    def _remove(self, slot: Slot) -> None:
        del self._waiting[slot]
        self._waiting_queries -= slot.queries
