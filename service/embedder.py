"""Image bytes in, unit vectors out: decoding in processes of its own, the network in micro-batches, a finite vector or a refusal.

Images of many callers share the forward passes. Admission is the only place that says no for lack of room: it counts images that
were taken and not yet answered, so the queue, and with it memory and waiting time, is bounded.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backbone.artifact import Artifact
from backbone.decode import DecodeLimits
from backbone.errors import ImageRefused
from backbone.pooling import pool
from service.batching import Batcher, Run, TokensOfOne
from service.decoders import Decoders
from service.errors import EmbeddingNotFinite, InferenceFailed, Saturated, Stopping

PATCHES = "patches"  # the output that is not pooled


@dataclass(frozen=True, slots=True)
class Embedded:
    """One embedded image, and what it took."""

    vector: NDArray[np.float32]  # [dim] of length one; for `patches` [N, D] as the network gave them
    thumbnail: bytes | None  # JPEG
    decode_s: float
    queue_s: float
    infer_s: float


Refusal = ImageRefused | EmbeddingNotFinite | InferenceFailed  # what befalls one image and not its neighbours
Answer = Embedded | Refusal


@dataclass(frozen=True, slots=True)
class _Computed:
    tokens: TokensOfOne
    thumbnail: bytes | None
    decode_s: float


_Ticket = Future[_Computed]  # of one admitted image, from admission to answer


class Embedder:
    """One artifact behind one runtime; thread-safe."""

    def __init__(
        self,
        artifact: Artifact,
        run: Run,
        *,
        limits: DecodeLimits,
        decode_workers: int,
        decode_timeout_s: float,
        batch_images: int,
        batch_wait_s: float,
        queue_images: int,
        thumbnail_px: int,
    ) -> None:
        self._artifact = artifact
        self._preprocess = artifact.preprocess
        self._queue_images = queue_images
        self._open = True
        self._admitted: set[_Ticket] = set()  # admitted and not yet answered
        self._lock = threading.Lock()
        self._decoders = Decoders(artifact.preprocess, limits, thumbnail_px, decode_workers, decode_timeout_s)
        self._decoding = ThreadPoolExecutor(decode_workers, thread_name_prefix="decode")  # each waits for a process
        self._batcher = Batcher(run, batch_images, batch_wait_s)

    @property
    def artifact(self) -> Artifact:
        """Return what is served."""
        return self._artifact

    def embed(self, images: Sequence[bytes], output: str | None = None, thumbnails: bool = False) -> list[Answer]:
        """Embed a few images; blocks until each has its answer.

        Args:
            images: encoded images.
            output: `cls`, `mean`, `cls+mean` or `patches`; None is the artifact's pooling.
            thumbnails: also make a small JPEG of each.

        Returns:
            For each image a vector, or the error that refuses that image alone.

        Raises:
            Saturated: there is no room; nothing was started.
            Stopping: the service shuts down.
        """
        tickets = self._admit(images, thumbnails)
        try:
            for ticket in tickets:
                ticket.exception()  # waits; what it holds is read below
            return [self._answer(ticket, output) for ticket in tickets]
        finally:
            for ticket in tickets:
                ticket.cancel()

    async def embed_async(
        self, images: Sequence[bytes], output: str | None = None, thumbnails: bool = False
    ) -> list[Answer]:
        """Embed as `embed` does without blocking the event loop; what a cancelled caller left waiting is not computed."""
        tickets = self._admit(images, thumbnails)
        try:
            await asyncio.gather(*map(asyncio.wrap_future, tickets), return_exceptions=True)
            return [self._answer(ticket, output) for ticket in tickets]
        finally:
            for ticket in tickets:
                ticket.cancel()

    def thumbnail(self, image: bytes) -> bytes:
        """Return a small JPEG of an encoded image; waits where every decoder is busy. Raises ImageRefused."""
        small = self._decoders.decode(image, square=False, thumbnail=True).thumbnail
        assert small is not None
        return small

    def ready(self) -> bool:
        """Say whether a request sent now would be computed: the batcher lives and the queue has room for more."""
        return self._batcher.alive() and len(self._admitted) < self._queue_images

    def close(self) -> None:
        """Finish what was admitted, then stop; idempotent."""
        with self._lock:
            self._open = False
        self._decoding.shutdown(wait=True)
        self._batcher.close()
        self._decoders.close()

    def _admit(self, images: Sequence[bytes], thumbnails: bool) -> list[_Ticket]:
        """Take all images or none; each ticket ends on every path, and then its place is free again."""
        with self._lock:
            if not self._open:
                raise Stopping("the service is stopping; send the request to another one.")
            if len(self._admitted) + len(images) > self._queue_images:
                raise Saturated(
                    f"{len(self._admitted)} images wait to be embedded and the limit is {self._queue_images}; come back in a second."
                )
            tickets: list[_Ticket] = [Future() for _ in images]
            self._admitted.update(tickets)
            for ticket, image in zip(tickets, images, strict=True):
                ticket.add_done_callback(self._release)  # a cancelled one
                self._decoding.submit(self._decode, ticket, image, thumbnails)
        return tickets

    def _release(self, ticket: _Ticket) -> None:
        with self._lock:
            self._admitted.discard(ticket)

    def _end(self, ticket: _Ticket, answer: _Computed | BaseException) -> None:
        """Answer a ticket. Its place is free before its caller hears, so that the next request finds it so."""
        self._release(ticket)
        if not ticket.set_running_or_notify_cancel():
            return
        if isinstance(answer, BaseException):
            ticket.set_exception(answer)
        else:
            ticket.set_result(answer)

    def _decode(self, ticket: _Ticket, data: bytes, with_thumbnail: bool) -> None:
        """Have an image decoded, and hand its pixels on to the batcher."""
        if ticket.cancelled():
            return
        begun = time.perf_counter()
        try:
            decoded = self._decoders.decode(data, thumbnail=with_thumbnail)
            assert decoded.square is not None
            inner = self._batcher.submit(self._preprocess.normalised(decoded.square))
        except BaseException as error:  # noqa: BLE001 - a pool thread: whatever it is belongs to the one who waits for the ticket
            self._end(ticket, error)
            return
        decode_s = time.perf_counter() - begun

        def computed(tokens: Future[TokensOfOne]) -> None:
            if tokens.cancelled():
                return  # its ticket was cancelled first
            error = tokens.exception()
            self._end(ticket, error or _Computed(tokens.result(), decoded.thumbnail, decode_s))

        ticket.add_done_callback(lambda ended: inner.cancel() if ended.cancelled() else None)
        inner.add_done_callback(computed)

    def _answer(self, ticket: _Ticket, output: str | None) -> Answer:
        error = ticket.exception()
        if isinstance(error, Refusal):
            return error
        if error is not None:
            raise error
        computed = ticket.result()
        tokens = computed.tokens
        if output == PATCHES:
            vector = tokens.patch_tokens
        else:
            pooling = output or self._artifact.manifest.pooling
            vector = pool(tokens.global_token[None], tokens.patch_tokens[None], pooling)[0]
        if not np.isfinite(vector).all():
            return EmbeddingNotFinite("the network gave no finite vector for this image; the artifact needs a look.")
        return Embedded(vector, computed.thumbnail, computed.decode_s, tokens.queue_s, tokens.infer_s)
