"""Image bytes in, unit vectors out: decoding in processes of its own, the network in micro-batches, a finite vector or a refusal.

Images of many callers share the forward passes. Admission is the only place that says no for lack of room: it counts images and bytes
that were taken and not yet answered, and how long they will take, so that the queue, and with it memory and waiting time, is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backbone.artifact import Artifact
from backbone.decode import DecodeLimits
from backbone.errors import ImageRefused
from backbone.pooling import pool
from service.batching import NEVER, Batcher, Run, TokensOfOne
from service.decoders import Decoders
from service.errors import (
    DeadlinePassed,
    EmbedderRestarted,
    EmbeddingNotFinite,
    InferenceFailed,
    Saturated,
    Stopping,
    Unavailable,
)
from service.line import Line
from service.metrics import Metrics

PATCHES = "patches"  # the output that is not pooled
INTERACTIVE_IMAGES: Final = 4  # of a request at most that somebody waits for; more are an upload, and let those pass
CANARY_S: Final = 5.0  # for so long an answer shows that the next one will come, too
CANARY_COSINE: Final = 0.999  # of two times the same image: what reduced precision and another batch may change


@dataclass(frozen=True, slots=True)
class Embedded:
    """One embedded image, and what it took."""

    vector: NDArray[np.float32]  # [dim] of length one; for `patches` [N, D] as the network gave them
    thumbnail: bytes | None  # JPEG
    decode_s: float
    queue_s: float
    infer_s: float


# What befalls one image and not its neighbours:
Refusal = ImageRefused | EmbeddingNotFinite | InferenceFailed | DeadlinePassed | EmbedderRestarted
Answer = Embedded | Refusal


@dataclass(frozen=True, slots=True)
class Limits:
    """What may wait at a time, and for how long."""

    images: int
    bytes: int  # of encoded images
    seconds: float  # from admission to answer
    interactive_seconds: float = math.inf  # of work in front of a request that somebody waits for


@dataclass(frozen=True, slots=True)
class _Computed:
    tokens: TokensOfOne
    thumbnail: bytes | None
    decode_s: float


@dataclass(eq=False, slots=True)
class _Ticket:
    """One admitted image, from admission to answer."""

    image: bytes
    with_thumbnail: bool
    deadline: float  # monotonic seconds
    bulk: bool
    answer: Future[_Computed] = field(default_factory=Future)


class Embedder:
    """One artifact behind one runtime; thread-safe."""

    def __init__(
        self,
        artifact: Artifact,
        run: Run,
        *,
        lanes: int,
        limits: DecodeLimits,
        decode_workers: int,
        decode_timeout_s: float,
        batch_images: int,
        batch_wait_s: float,
        queue: Limits,
        thumbnail_px: int,
        metrics: Metrics,
    ) -> None:
        self._artifact = artifact
        self._preprocess = artifact.preprocess
        self._queue = queue
        self._open = True
        self._admitted: set[_Ticket] = set()  # admitted and not yet answered
        self._admitted_bytes = 0
        self._interactive = 0  # of the admitted images
        self._batch_images = batch_images
        self._decoding = 0  # admitted and not yet with the batcher
        self._answered_at = -math.inf
        self._lock = threading.Lock()
        self._canary = _canary_image()
        self._canary_vector: NDArray[np.float32] | None = None  # as it was the first time
        self._line: Line[_Ticket] = Line()
        self._decoders = Decoders(artifact.preprocess, limits, thumbnail_px, decode_workers, decode_timeout_s)
        self._batcher = Batcher(run, batch_images, batch_wait_s, lambda: self._decoding > 0, metrics.batch_ran, lanes)
        self._metrics = metrics
        self._threads = [  # each waits for a decoder process
            threading.Thread(target=self._decode_all, name=f"decode-{i}", daemon=True) for i in range(decode_workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def artifact(self) -> Artifact:
        """Return what is served."""
        return self._artifact

    @property
    def queued_images(self) -> int:
        """Return how many images are admitted and not yet answered."""
        return len(self._admitted)

    @property
    def queued_bytes(self) -> int:
        """Return their bytes as they came."""
        return self._admitted_bytes

    @property
    def decoder_restarts(self) -> int:
        """Return how often a decoder process had to be started anew."""
        return self._decoders.restarts

    def embed(
        self,
        images: Sequence[bytes],
        output: str | None = None,
        thumbnails: bool = False,
        patient: bool = False,
    ) -> list[Answer]:
        """Embed a few images; blocks until each has its answer.

        Args:
            images: encoded images.
            output: `cls`, `mean`, `cls+mean` or `patches`; None is the artifact's pooling.
            thumbnails: also make a small JPEG of each.
            patient: nobody stands and waits: without a deadline, and behind those who do.

        Returns:
            For each image a vector, or the error that refuses that image alone.

        Raises:
            Saturated: there is no room; nothing was started.
            Stopping: the service shuts down.
        """
        tickets = self._admit(images, thumbnails, patient)
        try:
            for ticket in tickets:
                left_s = None if patient else max(ticket.deadline - time.monotonic(), 0)
                try:
                    ticket.answer.exception(left_s)  # waits; what it holds is read below
                except TimeoutError:
                    break
            return [self._answer(ticket, output) for ticket in tickets]
        finally:
            for ticket in tickets:
                ticket.answer.cancel()

    async def embed_async(
        self, images: Sequence[bytes], output: str | None = None, thumbnails: bool = False
    ) -> list[Answer]:
        """Embed as `embed` does without blocking the event loop; what a cancelled caller left waiting is not computed."""
        tickets = self._admit(images, thumbnails)
        try:
            with contextlib.suppress(TimeoutError):  # those that have no answer then say so
                async with asyncio.timeout(self._queue.seconds):
                    await asyncio.gather(*(asyncio.wrap_future(t.answer) for t in tickets), return_exceptions=True)
            return [self._answer(ticket, output) for ticket in tickets]
        finally:
            for ticket in tickets:
                ticket.answer.cancel()

    def refusal(self) -> Unavailable | None:
        """Return the error that one more image of a request that somebody waits for would meet now; None where there is room."""
        try:
            with self._lock:
                self._check_room(1, 0, bulk=False, patient=False)
        except (Saturated, Stopping) as error:
            return error
        return None

    def thumbnail(self, image: bytes) -> bytes:
        """Return a small JPEG of an encoded image; waits where every decoder is busy. Raises ImageRefused."""
        small = self._decoders.decode(image, square=False, thumbnail=True).thumbnail
        assert small is not None
        return small

    def square(self, image: bytes) -> NDArray[np.uint8]:
        """Return an image as the network is shown it, [crop, crop, 3]; waits where every decoder is busy. Raises ImageRefused."""
        square = self._decoders.decode(image).square
        assert square is not None
        return square

    async def ready(self) -> bool:
        """Say whether an image sent now would be embedded: there is room, and one was embedded just now, or is."""
        if not self._open or not self._batcher.alive() or len(self._admitted) >= self._queue.images:
            return False
        if time.monotonic() - self._answered_at < CANARY_S:
            return True
        try:
            [answer] = await self.embed_async([self._canary])
        except (Saturated, Stopping):
            return False
        if not isinstance(answer, Embedded):
            return False
        if self._canary_vector is None:
            self._canary_vector = answer.vector
        return float(answer.vector @ self._canary_vector) >= CANARY_COSINE

    def close(self) -> None:
        """Finish what was admitted, then stop; idempotent."""
        with self._lock:
            self._open = False
        self._line.close()
        for thread in self._threads:
            thread.join()
        self._batcher.close()
        self._decoders.close()

    def _admit(self, images: Sequence[bytes], thumbnails: bool, patient: bool = False) -> list[_Ticket]:
        """Take all images or none; each ticket ends on every path, and then its place is free again."""
        bulk = patient or len(images) > INTERACTIVE_IMAGES
        deadline = NEVER if patient else time.monotonic() + self._queue.seconds
        tickets = [_Ticket(image, thumbnails, deadline, bulk) for image in images]
        with self._lock:
            self._check_room(len(images), sum(map(len, images)), bulk, patient)
            for ticket in tickets:
                self._admitted.add(ticket)
                self._admitted_bytes += len(ticket.image)
                self._interactive += not bulk
                self._decoding += 1
        for ticket in tickets:
            ticket.answer.add_done_callback(functools.partial(self._release, ticket))  # a cancelled one
            if not self._line.put(ticket, bulk):
                self._end(ticket, Stopping("the service is stopping; send the request to another one."))
        return tickets

    def _check_room(self, images: int, size: int, bulk: bool, patient: bool) -> None:
        if not self._open:
            raise Stopping("the service is stopping; send the request to another one.")
        waiting = len(self._admitted)
        if waiting + images > self._queue.images:
            raise Saturated(
                f"{waiting} images wait to be embedded and the limit is {self._queue.images}; come back in a second."
            )
        if self._admitted_bytes + size > self._queue.bytes:
            raise Saturated(
                f"images of {self._admitted_bytes:,} bytes wait to be embedded and the limit is {self._queue.bytes:,};"
                " come back in a second."
            )
        if patient:
            return
        # Few images go before many, so that only others of few are in front of them; and as many as fit into a pass may always wait.
        ahead = waiting if bulk else self._interactive
        most_s = self._queue.seconds
        if not bulk and ahead + images > self._batch_images:
            most_s = min(most_s, self._queue.interactive_seconds)
        takes_s = (ahead + images) * self._batcher.pace.seconds_per_image
        if ahead and takes_s > most_s:
            raise Saturated(f"what waits takes {takes_s:.0f} s, longer than a request may; come back in some seconds.")

    def _release(self, ticket: _Ticket, _: object = None) -> None:
        with self._lock:
            if ticket in self._admitted:
                self._admitted.discard(ticket)
                self._admitted_bytes -= len(ticket.image)
                self._interactive -= not ticket.bulk

    def _end(self, ticket: _Ticket, answer: _Computed | BaseException) -> None:
        """Answer a ticket. Its place is free before its caller hears, so that the next request finds it so."""
        self._release(ticket)
        if not ticket.answer.set_running_or_notify_cancel():
            return
        if isinstance(answer, BaseException):
            ticket.answer.set_exception(answer)
        else:
            self._answered_at = time.monotonic()
            ticket.answer.set_result(answer)

    def _decode_all(self) -> None:
        """Have one image after the other decoded, and hand its pixels on to the batcher."""
        while tickets := self._line.take():
            for ticket in tickets:
                try:
                    self._decode(ticket)
                except BaseException as error:  # noqa: BLE001 - a declared boundary: whatever it is belongs to the one who waits
                    self._end(ticket, error)
                finally:
                    with self._lock:
                        self._decoding -= 1

    def _decode(self, ticket: _Ticket) -> None:
        if ticket.answer.cancelled():
            self._metrics.image_cancelled()
            return
        if ticket.deadline < time.monotonic():
            raise DeadlinePassed("the image waited longer than its request may take; send it again later.")
        begun = time.monotonic()
        decoded = self._decoders.decode(ticket.image, thumbnail=ticket.with_thumbnail)
        assert decoded.square is not None
        pixels = self._preprocess.normalised(decoded.square)
        decode_s = time.monotonic() - begun
        tokens = self._batcher.submit(pixels, ticket.deadline, ticket.bulk)

        def computed(tokens: Future[TokensOfOne]) -> None:
            if tokens.cancelled():  # its ticket was cancelled first
                self._metrics.image_cancelled()
                return
            error = tokens.exception()
            self._end(ticket, error or _Computed(tokens.result(), decoded.thumbnail, decode_s))

        ticket.answer.add_done_callback(lambda ended: tokens.cancel() if ended.cancelled() else None)
        tokens.add_done_callback(computed)

    def _answer(self, ticket: _Ticket, output: str | None) -> Answer:
        answer = self._outcome(ticket, output)
        if not isinstance(answer, Embedded):
            self._metrics.image_refused(answer.code)
        return answer

    def _outcome(self, ticket: _Ticket, output: str | None) -> Answer:
        if not ticket.answer.done() or ticket.answer.cancelled():
            return DeadlinePassed("the image took longer than its request may take; send it again later.")
        error = ticket.answer.exception()
        if isinstance(error, Refusal):
            return error
        if error is not None:
            raise error
        computed = ticket.answer.result()
        tokens = computed.tokens
        if output == PATCHES:
            vector = tokens.patch_tokens
        else:
            pooling = output or self._artifact.manifest.pooling
            vector = pool(tokens.global_token[None], tokens.patch_tokens[None], pooling)[0]
        if not np.isfinite(vector).all():
            return EmbeddingNotFinite("the network gave no finite vector for this image; the artifact needs a look.")
        return Embedded(vector, computed.thumbnail, computed.decode_s, tokens.queue_s, tokens.infer_s)


def _canary_image() -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(file, "PNG")
    return file.getvalue()
