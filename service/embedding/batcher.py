"""Single images in, micro-batches through the network, one future each: every future ends, on every path.

As many threads as the runtime has lanes share the work. Each takes what waits, up to its part of `batch_images`, and waits for company
only while company is on its way. It drops what was cancelled and what nobody can use any more, and runs one forward pass. A pass
without enough memory is tried again in halves, and batches stay so small from then on; one that fails is tried once more image by
image, so that one poisoned image fails alone. What would end a thread ends its batch, and the thread goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from service.concurrency.priority_queue import PriorityQueue
from service.concurrency.thread_priority import lower_priority
from service.concurrency.throughput import Throughput
from service.errors import DeadlinePassed, EmbedderRestarted, InferenceFailed, Stopping

Pixels = NDArray[np.float32]  # [3, H, W]
_NONE: Final = np.empty((0, 0, 0), np.float32)
NEVER = float("inf")  # a deadline for work that nobody stands and waits for

log = structlog.get_logger("service")


class Run(Protocol):
    """The forward pass: pixels [B, 3, H, W] -> (global_token [B, D], patch_tokens [B, N, D], or None where they are not asked for)."""

    def __call__(
        self, pixels: NDArray[np.float32], patches: bool, /
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Run one batch."""


@dataclass(frozen=True, slots=True)
class TokensOfOne:
    """What the network said about one image, and how long it took."""

    global_token: NDArray[np.float32]  # [D]
    patch_tokens: NDArray[np.float32] | None  # [N, D], where they were asked for
    queue_s: float  # waiting for the forward pass
    infer_s: float  # the forward pass, shared with the batch


@dataclass(slots=True)
class _Item:
    pixels: Pixels
    patches: bool  # whether the patch tokens are wanted, which cost more
    deadline: float  # monotonic seconds
    future: Future[TokensOfOne] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)

    def forget(self) -> None:
        """Drop the pixels: what was cancelled may wait for its turn for long, and holds no memory meanwhile."""
        self.pixels = _NONE


class Batcher:
    """Gathers images of many callers into forward passes.

    The number of waiting images is bounded by whoever admits them (`service.embedding.admission`), so `submit` never blocks.
    `company` says whether more images are about to be submitted; `ran` is told how many were computed at once, and in how many seconds.
    `lanes` is how many calls of `run` may compute side by side; together they have up to `batch_images` in hand.
    """

    def __init__(
        self,
        run: Run,
        batch_images: int,
        batch_wait_s: float,
        company: Callable[[], bool] = lambda: True,
        ran: Callable[[int, float], None] = lambda images, seconds: None,
        lanes: int = 1,
    ) -> None:
        self._run = run
        self._batch_images = -(-batch_images // lanes)  # of one lane
        self._batch_wait_s = batch_wait_s
        self._company = company
        self._ran = ran
        self._line: PriorityQueue[_Item] = PriorityQueue()
        self.pace = Throughput(passes=5)  # of full batches: some seconds
        self._threads = [threading.Thread(target=self._work, name=f"batcher-{i}", daemon=True) for i in range(lanes)]
        for thread in self._threads:
            thread.start()

    def submit(
        self, pixels: Pixels, deadline: float = NEVER, bulk: bool = False, patches: bool = True
    ) -> Future[TokensOfOne]:
        """Queue one image [3, H, W]; its future ends with its tokens (without `patches` with the global one), an error, or cancelled.

        Raises:
            Stopping: the batcher is closed.
        """
        item = _Item(pixels, patches, deadline)
        item.future.add_done_callback(lambda _: item.forget())
        if not self._line.put(item, bulk):
            raise Stopping("the service is stopping; send the request to another one.")
        return item.future

    def alive(self) -> bool:
        """Say whether images that are submitted now will be computed."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """Return how many images no pass has taken yet."""
        return len(self._line)

    def close(self, within_s: float = NEVER) -> bool:
        """Compute what waits, then stop; say whether that was done in time. Idempotent."""
        end = time.monotonic() + within_s
        self._line.close()
        for thread in self._threads:
            thread.join(None if within_s == NEVER else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        lower_priority()
        while batch := self._line.take(self._batch_images, self._batch_wait_s, self._company):
            try:
                self._compute(batch)
            except BaseException as error:  # noqa: BLE001 - a declared boundary: nothing that a runtime raises ends a thread
                log.warning("batch_ended", error=type(error).__name__, detail=str(error)[:500], images=len(batch))
                for item in batch:
                    _fail(item, EmbedderRestarted("the network was started anew at this image; send it again."))

    def _compute(self, batch: Sequence[_Item]) -> None:
        wanted = [item for item in batch if item.future.set_running_or_notify_cancel()]
        now = time.monotonic()
        for item in wanted:
            if item.deadline < now:
                _fail(item, DeadlinePassed("the image waited longer than its request may take; send it again later."))
        self._in_halves([item for item in wanted if item.deadline >= now])

    def _in_halves(self, items: Sequence[_Item]) -> None:
        """Compute items; halve them for as long as the memory does not suffice."""
        if not items:
            return
        try:
            self._pass(items)
        except Exception as error:  # noqa: BLE001 - a declared boundary: whatever a runtime raises ends the futures, not the thread
            if len(items) == 1:
                _fail(items[0], _failed(error))
            elif _is_out_of_memory(error):
                half = (len(items) + 1) // 2
                self._batch_images = min(self._batch_images, half)
                log.warning("batch_halved", batch_images=self._batch_images, detail=str(error)[:500])
                self._in_halves(items[:half])
                self._in_halves(items[half:])
            else:
                for item in items:
                    self._in_halves([item])

    def _pass(self, items: Sequence[_Item]) -> None:
        begun = time.monotonic()
        global_tokens, patch_tokens = self._run(
            np.stack([item.pixels for item in items]), any(item.patches for item in items)
        )
        ended = time.monotonic()
        rows = [None] * len(items) if patch_tokens is None else patch_tokens
        if len(global_tokens) != len(items) or len(rows) != len(items):
            raise ValueError("the runtime gave another number of rows than it was given images")
        self.pace.record(len(items), begun, ended)
        self._ran(len(items), ended - begun)
        for item, global_token, patches in zip(items, global_tokens, rows, strict=True):
            wanted = patches if item.patches else None
            item.future.set_result(TokensOfOne(global_token, wanted, begun - item.since, ended - begun))


def _is_out_of_memory(error: Exception) -> bool:
    # torch's own class by its name, for this module knows no torch
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _failed(error: Exception) -> InferenceFailed:
    failure = InferenceFailed("the network failed on this image; the log names the reason, under the same request id.")
    failure.__cause__ = error
    return failure


def _fail(item: _Item, error: Exception) -> None:
    if not item.future.done():
        item.future.set_exception(error)
