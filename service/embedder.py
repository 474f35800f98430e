"""Image bytes in, unit vectors out: decode and preprocess in a thread pool, the network in micro-batches, a finite vector or a refusal.

Images of many callers share the forward passes. Admission is the only place that says no for lack of room: it counts images that
were taken and not yet answered, so the queue, and with it memory and waiting time, is bounded.
"""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backbone.artifact import Artifact
from backbone.decode import DecodeLimits, decode
from backbone.errors import ImageRefused
from backbone.pooling import pool
from service.batching import Batcher, Run, TokensOfOne
from service.errors import EmbeddingNotFinite, InferenceFailed, Saturated, Stopping

PATCHES = "patches"  # the output that is not pooled
_THUMBNAIL_QUALITY = 85  # Pillow's and most cameras' trade of bytes for looks


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
        decode_threads: int,
        batch_images: int,
        batch_wait_s: float,
        queue_images: int,
        thumbnail_px: int,
    ) -> None:
        self._artifact = artifact
        self._preprocess = artifact.preprocess
        self._limits = limits
        self._thumbnail_px = thumbnail_px
        self._queue_images = queue_images
        self._open = True
        self._admitted: set[_Ticket] = set()  # admitted and not yet answered
        self._lock = threading.Lock()
        self._decoders = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")
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
        """Return a small JPEG of an encoded image. Raises ImageRefused."""
        return thumbnail(decode(image, self._limits, cover=self._thumbnail_px), self._thumbnail_px)

    def ready(self) -> bool:
        """Say whether a request sent now would be computed: the batcher lives and the queue has room for more."""
        return self._batcher.alive() and len(self._admitted) < self._queue_images

    def close(self) -> None:
        """Finish what was admitted, then stop; idempotent."""
        with self._lock:
            self._open = False
        self._decoders.shutdown(wait=True)
        self._batcher.close()

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
                self._decoders.submit(self._decode, ticket, image, thumbnails)
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
        """Decode in a pool thread and hand on to the batcher."""
        if ticket.cancelled():
            return
        begun = time.perf_counter()
        try:
            image = decode(data, self._limits, cover=self._preprocess.resize)
            pixels = self._preprocess.pixels(image)
            small = self._thumbnail(data, image) if with_thumbnail else None
            inner = self._batcher.submit(pixels)
        except BaseException as error:  # noqa: BLE001 - a pool thread: whatever it is belongs to the one who waits for the ticket
            self._end(ticket, error)
            return
        decode_s = time.perf_counter() - begun

        def computed(tokens: Future[TokensOfOne]) -> None:
            if tokens.cancelled():
                return  # its ticket was cancelled first
            error = tokens.exception()
            self._end(ticket, error or _Computed(tokens.result(), small, decode_s))

        ticket.add_done_callback(lambda ended: inner.cancel() if ended.cancelled() else None)
        inner.add_done_callback(computed)

    def _thumbnail(self, data: bytes, image: Image.Image) -> bytes:
        if min(image.size) < self._thumbnail_px:  # decoded for a small network: too coarse for a person, perhaps
            image = decode(data, self._limits, cover=self._thumbnail_px)
        return thumbnail(image, self._thumbnail_px)

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


def thumbnail(image: Image.Image, longer_side_px: int) -> bytes:
    """Return a JPEG of an RGB image that fits a square of `longer_side_px`; smaller images keep their size."""
    small = image.copy()
    small.thumbnail((longer_side_px, longer_side_px))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=_THUMBNAIL_QUALITY)
    return file.getvalue()
