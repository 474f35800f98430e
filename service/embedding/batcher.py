"""The micro-batcher: decoded images of many callers in, forward passes of several images each; every ticket ends, on every path.

As many threads as the runtime has streams share the work. Each takes what waits, up to its part of `batch_images`, and waits for more
only while more are on their way. It drops what has ended and what nobody can use any more, and runs one forward pass. A pass
without enough memory is tried again in halves, and batches stay so small from then on; one that fails is tried once more image by
image, so that one poisoned image fails alone. What would end a thread ends its batch, and the thread goes on.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import structlog

from service.concurrency.priority_queue import PriorityQueue
from service.concurrency.thread_priority import lower_priority
from service.concurrency.throughput import Throughput
from service.embedding.admission import Ticket
from service.embedding.runtime import Floats, ForwardPass
from service.errors import DeadlinePassed, EmbedderRestarted, InferenceFailed, Stopping

log = structlog.get_logger("service")


class Batcher:
    """Gathers images of many callers into forward passes.

    The number of waiting images is bounded by whoever admits them (`service.embedding.admission`), so `submit` never blocks.
    `more_coming` says whether more images are about to be submitted; `ran` is told how many were computed at once, and in how many
    seconds. `streams` is how many calls of `forward` may compute side by side; together they have up to `batch_images` in hand.
    """

    def __init__(
        self,
        forward: ForwardPass,
        batch_images: int,
        batch_wait_s: float,
        more_coming: Callable[[], bool] = lambda: True,
        ran: Callable[[int, float], None] = lambda images, seconds: None,
        streams: int = 1,
    ) -> None:
        self._forward = forward
        self._batch_images = -(-batch_images // streams)  # of one stream
        self._batch_wait_s = batch_wait_s
        self._more_coming = more_coming
        self._ran = ran
        self._queue: PriorityQueue[Ticket] = PriorityQueue()
        self.throughput = Throughput(passes=5)  # of full batches: some seconds
        self.computed_at = -math.inf  # when the network last gave tokens, in monotonic seconds
        self._threads = [threading.Thread(target=self._work, name=f"batcher-{i}", daemon=True) for i in range(streams)]
        for thread in self._threads:
            thread.start()

    def submit(self, ticket: Ticket, pixels: Floats) -> None:
        """Queue one decoded image [3, H, W]; its ticket ends with its tokens, or an error.

        Raises:
            Stopping: the batcher is closed.
        """
        ticket.pixels = pixels
        if ticket.ended.done():  # asked after they are there: who ends it from here on drops them
            ticket.pixels = None
        elif not self._queue.put(ticket, ticket.bulk):
            raise Stopping()

    def alive(self) -> bool:
        """Say whether images that are submitted now will be computed."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """Return how many images no pass has taken yet."""
        return len(self._queue)

    def close(self, within_s: float = math.inf) -> bool:
        """Compute what waits, then stop; say whether that was done in time. Idempotent."""
        end = time.monotonic() + within_s
        self._queue.close()
        for thread in self._threads:
            thread.join(None if within_s == math.inf else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        lower_priority()
        while batch := self._queue.take(self._batch_images, self._batch_wait_s, self._more_coming):
            try:
                self._compute(batch)
            except BaseException as error:  # noqa: BLE001 - a declared boundary: nothing that a runtime raises ends a thread
                log.warning("batch_ended", error=type(error).__name__, detail=str(error)[:500], images=len(batch))
                for ticket in batch:
                    ticket.finish(EmbedderRestarted("the network was started anew at this image; send it again."))

    def _compute(self, batch: Sequence[Ticket]) -> None:
        """Compute those of a batch that somebody still waits for."""
        now = time.monotonic()
        tickets: list[Ticket] = []
        for ticket in batch:
            if ticket.ended.done():
                continue
            if ticket.deadline < now:
                ticket.finish(DeadlinePassed("the image waited longer than its request may take; send it again later."))
                continue
            ticket.computing_at = now
            tickets.append(ticket)
        self._run(tickets)

    def _run(self, tickets: Sequence[Ticket]) -> None:
        """Run a forward pass; one that fails is run again in halves for want of memory, and else image by image."""
        try:
            self._pass(tickets)
        except Exception as error:  # noqa: BLE001 - a declared boundary: whatever a runtime raises ends the tickets, not the thread
            if len(tickets) == 1:
                tickets[0].finish(_failed(error))
            elif _is_out_of_memory(error):
                half = (len(tickets) + 1) // 2
                self._batch_images = min(self._batch_images, half)
                log.warning("batch_halved", batch_images=self._batch_images, detail=str(error)[:500])
                self._run(tickets[:half])
                self._run(tickets[half:])
            else:
                for ticket in tickets:
                    self._run([ticket])

    def _pass(self, batch: Sequence[Ticket]) -> None:
        held = [(ticket, pixels) for ticket in batch if (pixels := ticket.pixels) is not None]  # the others have ended
        if not held:
            return
        tickets, images = zip(*held, strict=True)
        begun = time.monotonic()
        global_tokens, patch_tokens = self._forward(np.stack(images), any(ticket.patches for ticket in tickets))
        ended = time.monotonic()
        rows = [None] * len(tickets) if patch_tokens is None else patch_tokens
        if len(global_tokens) != len(tickets) or len(rows) != len(tickets):
            raise ValueError("the runtime gave another number of rows than it was given images")
        self.throughput.record(len(tickets), begun, ended)
        self._ran(len(tickets), ended - begun)
        self.computed_at = ended
        for ticket, global_token, patches in zip(tickets, global_tokens, rows, strict=True):
            ticket.tokens = global_token, patches if ticket.patches else None
            ticket.computing_at, ticket.computed_at = begun, ended
            ticket.finish()


def _is_out_of_memory(error: Exception) -> bool:
    # torch's own class by its name, for this module knows no torch
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _failed(error: Exception) -> InferenceFailed:
    failure = InferenceFailed("the network failed on this image; the log names the reason, under the same request id.")
    failure.__cause__ = error
    return failure
