"""Single images in, micro-batches through the network, one future each: every future ends, on every path.

One thread owns the runtime. It takes what waits, up to `batch_images`, waits at most `batch_wait_s` for company, drops what was
cancelled, and runs one forward pass. A pass that fails is tried once more image by image, so that one poisoned image fails alone.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import InferenceFailed, Stopping

Pixels = NDArray[np.float32]  # [3, H, W]


class Run(Protocol):
    """The forward pass: pixels [B, 3, H, W] -> (global_token [B, D], patch_tokens [B, N, D])."""

    def __call__(self, pixels: NDArray[np.float32], /) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run one batch."""


@dataclass(frozen=True, slots=True)
class TokensOfOne:
    """What the network said about one image, and how long it took."""

    global_token: NDArray[np.float32]  # [D]
    patch_tokens: NDArray[np.float32]  # [N, D]
    queue_s: float  # waiting for the forward pass
    infer_s: float  # the forward pass, shared with the batch


@dataclass(slots=True)
class _Item:
    pixels: Pixels
    future: Future[TokensOfOne] = field(default_factory=Future)
    since: float = field(default_factory=time.perf_counter)


class Batcher:
    """Gathers images of many callers into forward passes.

    The number of waiting images is bounded by whoever admits them (`service.embedder`), so `submit` never blocks.
    """

    def __init__(self, run: Run, batch_images: int, batch_wait_s: float) -> None:
        self._run = run
        self._batch_images = batch_images
        self._batch_wait_s = batch_wait_s
        self._waiting: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, pixels: Pixels) -> Future[TokensOfOne]:
        """Queue one image [3, H, W]; its future ends with tokens, an error, or cancelled.

        Raises:
            Stopping: the batcher is closed or its thread is gone.
        """
        item = _Item(pixels)
        with self._changed:
            if not self._open:
                raise Stopping("the service is stopping; send the request to another one.")
            self._waiting.append(item)
            self._changed.notify()
        return item.future

    def alive(self) -> bool:
        """Say whether images that are submitted now will be computed."""
        return self._open and self._thread.is_alive()

    def close(self) -> None:
        """Compute what waits, then stop; idempotent."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        batch: list[_Item] = []
        try:
            while batch := self._next_batch():
                self._compute(batch)
        finally:  # also when a BaseException ends the thread: nobody may wait for it
            with self._changed:
                self._open = False
                left, self._waiting = [*batch, *self._waiting], deque()
            for item in left:
                _fail(item, Stopping("the service stopped before this image was computed; send it again."))

    def _next_batch(self) -> list[_Item]:
        """Wait for images; an empty list means closed and drained."""
        with self._changed:
            while self._open and not self._waiting:
                self._changed.wait()
            deadline = time.perf_counter() + self._batch_wait_s
            while self._open and len(self._waiting) < self._batch_images:
                left_s = deadline - time.perf_counter()
                if left_s <= 0 or not self._changed.wait(left_s):
                    break
            return [self._waiting.popleft() for _ in range(min(self._batch_images, len(self._waiting)))]

    def _compute(self, batch: Sequence[_Item]) -> None:
        wanted = [item for item in batch if item.future.set_running_or_notify_cancel()]
        if not wanted:
            return
        try:
            self._pass(wanted)
        except Exception as error:  # noqa: BLE001 - a declared boundary: whatever a runtime raises ends the futures, not the thread
            if len(wanted) == 1:
                _fail(wanted[0], _failed(error))
            else:
                self._one_by_one(wanted)

    def _one_by_one(self, items: Sequence[_Item]) -> None:
        for item in items:
            try:
                self._pass([item])
            except Exception as error:  # noqa: BLE001 - the same boundary
                _fail(item, _failed(error))

    def _pass(self, items: Sequence[_Item]) -> None:
        begun = time.perf_counter()
        global_tokens, patch_tokens = self._run(np.stack([item.pixels for item in items]))
        infer_s = time.perf_counter() - begun
        if len(global_tokens) != len(items) or len(patch_tokens) != len(items):
            raise ValueError("the runtime gave another number of rows than it was given images")
        for item, global_token, patches in zip(items, global_tokens, patch_tokens, strict=True):
            item.future.set_result(TokensOfOne(global_token, patches, begun - item.since, infer_s))


def _failed(error: Exception) -> InferenceFailed:
    failure = InferenceFailed("the network failed on this image; the log names the reason, under the same request id.")
    failure.__cause__ = error
    return failure


def _fail(item: _Item, error: Exception) -> None:
    if not item.future.done():
        item.future.set_exception(error)
