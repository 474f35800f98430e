"""The embedder: image bytes in, and for each a finite unit vector or a refusal out.

It decodes in processes of its own, and computes in micro-batches: images of many callers share the forward passes. An image that is
admitted has a ticket, which ends on every path: with its answer, at its deadline, or when its caller leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backbone.artifact import Artifact
from backbone.decode import DecodeLimits, check_signature
from backbone.errors import ImageRefused
from backbone.pooling import pool, reads_patches
from service.embedding.admission import INTERACTIVE_IMAGES, NEVER, Admission, AdmissionLimits, Ticket
from service.embedding.decoder_pool import Decoded, Decoders
from service.embedding.pipeline import Pipeline
from service.embedding.readiness_probe import ReadinessProbe
from service.embedding.runtime import ForwardPass
from service.errors import (
    DeadlinePassed,
    DecoderUnavailable,
    EmbedderRestarted,
    EmbeddingNotFinite,
    InferenceFailed,
    Saturated,
    Stopping,
    Unavailable,
)
from service.metrics import Metrics

PATCHES = "patches"  # the output that is not pooled
PROBE_AFTER_S: Final = 5.0  # for so long an answer shows that the next one will come, too
CLOSE_S: Final = 10.0  # that a pass may take which runs at the end; what hangs longer is left behind


@dataclass(frozen=True, slots=True)
class Embedded:
    """One embedded image, and what it took."""

    vector: NDArray[np.float32]  # [dim] of length one; for `patches` [N, D] as the network gave them
    thumbnail: bytes | None  # JPEG
    decode_s: float
    queue_s: float  # waiting for a decoder and for the network
    infer_s: float


@dataclass(frozen=True, slots=True)
class EmbedderStats:
    """The lengths of an embedder's queues, each read by itself."""

    queued_images: int  # admitted and not yet answered
    queued_bytes: int  # theirs, as they came
    waiting_for_decoder: int  # images that no decoder has taken yet
    waiting_for_network: int  # decoded images that no pass has taken yet
    decoder_restarts: int  # decoder processes that had to be started anew


# What befalls one image and not its neighbours:
Refusal = ImageRefused | EmbeddingNotFinite | InferenceFailed | DeadlinePassed | DecoderUnavailable | EmbedderRestarted
Answer = Embedded | Refusal


class Embedder:
    """One artifact behind one runtime; thread-safe."""

    def __init__(
        self,
        artifact: Artifact,
        forward: ForwardPass,
        *,
        streams: int,
        limits: DecodeLimits,
        decode_workers: int,
        decode_timeout_s: float,
        batch_images: int,
        batch_wait_s: float,
        queue: AdmissionLimits,
        thumbnail_px: int,
        metrics: Metrics,
    ) -> None:
        self._artifact = artifact
        self._limits = limits
        self._embed_timeout_s = queue.embed_timeout_s
        self._metrics = metrics
        self._decoders = Decoders(artifact.preprocess, limits, thumbnail_px, decode_workers, decode_timeout_s)
        self._pipeline = Pipeline(
            artifact.preprocess,
            self._decoders,
            forward,
            streams=streams,
            batch_images=batch_images,
            batch_wait_s=batch_wait_s,
            metrics=metrics,
        )
        self._admission = Admission(queue, batch_images, self._pipeline.seconds_per_image)
        self._probe = ReadinessProbe(self._probe_vector)

    def stats(self) -> EmbedderStats:
        """Return what is in its queues now."""
        return EmbedderStats(
            queued_images=self._admission.images,
            queued_bytes=self._admission.bytes,
            waiting_for_decoder=self._pipeline.waiting_for_decoder,
            waiting_for_network=self._pipeline.waiting_for_network,
            decoder_restarts=self._decoders.restarts,
        )

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
        tickets = self._admit(images, output, thumbnails=thumbnails, patient=patient)
        try:
            with contextlib.suppress(TimeoutError):
                for ticket in tickets:
                    # waits; what it holds is read below
                    ticket.ended.exception(None if patient else max(ticket.deadline - time.monotonic(), 0))
            _end_late(tickets)
            return [self._answer(ticket, output) for ticket in tickets]
        finally:
            self._cancel(tickets)

    async def embed_async(
        self, images: Sequence[bytes], output: str | None = None, thumbnails: bool = False
    ) -> list[Answer]:
        """Embed as `embed` does without blocking the event loop; what a cancelled caller left waiting is not computed."""
        tickets = self._admit(images, output, thumbnails=thumbnails)
        await self._ended(tickets)
        return [self._answer(ticket, output) for ticket in tickets]

    async def decode_async(self, image: bytes, thumbnail: bool = False) -> Decoded:
        """Decode an image to what the network is shown of it, or to a small JPEG, with the same room and deadline.

        Raises:
            ImageRefused: the image cannot be decoded.
            Saturated, Stopping, DeadlinePassed: not now.
        """
        [ticket] = self._admit([image], computed=False, thumbnails=thumbnail)
        await self._ended([ticket])
        ticket.ended.result()
        assert ticket.decoded is not None
        return ticket.decoded

    def refusal(self) -> Unavailable | None:
        """Return the error that one more image of a request that somebody waits for would meet now; None where there is room."""
        return self._admission.refusal()

    async def ready(self) -> bool:
        """Say whether an image sent now would be embedded: there is room, and one was embedded just now, or is."""
        if not self._pipeline.alive() or self.refusal() is not None:
            return False
        return time.monotonic() - self._pipeline.computed_at < PROBE_AFTER_S or await self._probe.passes()

    @property
    def trouble(self) -> str | None:
        """Return why no image can be decoded, in words for strangers; None where nothing is known."""
        return self._decoders.trouble

    async def _probe_vector(self, image: bytes) -> NDArray[np.float32] | None:
        try:
            [answer] = await self.embed_async([image])
        except (Saturated, Stopping):
            return None
        return answer.vector if isinstance(answer, Embedded) else None

    def close(self, within_s: float = CLOSE_S) -> None:
        """Finish what was admitted, then stop; idempotent. What takes longer is left behind."""
        self._admission.close()
        self._pipeline.close(within_s)

    def _admit(
        self,
        images: Sequence[bytes],
        output: str | None = None,
        *,
        computed: bool = True,
        thumbnails: bool = False,
        patient: bool = False,
    ) -> list[Ticket]:
        """Take all images or none; each ticket ends on every path, and then its place is free again."""
        bulk = patient or len(images) > INTERACTIVE_IMAGES
        deadline = NEVER if patient else time.monotonic() + self._embed_timeout_s
        patches = output == PATCHES or reads_patches(output or self._artifact.manifest.pooling)
        tickets = [Ticket(self._admission, image, computed, patches, thumbnails, deadline, bulk) for image in images]
        recognised = [ticket for ticket in tickets if self._recognised(ticket)]
        if recognised:
            self._admission.enter(recognised, patient)
        for ticket in recognised:
            self._pipeline.submit(ticket)
        return tickets

    def _recognised(self, ticket: Ticket) -> bool:
        """End the ticket of what is no image at all: that takes nobody's place, and waits for nobody."""
        try:
            check_signature(ticket.image, self._limits)
        except ImageRefused as error:
            ticket.finish(error)
            return False
        return True

    async def _ended(self, tickets: Sequence[Ticket]) -> None:
        """Wait until all tickets have ended, at their deadline at the latest; cancelled, cancel them."""
        try:
            all_ended = asyncio.gather(*(asyncio.wrap_future(t.ended) for t in tickets), return_exceptions=True)
            await asyncio.wait({all_ended}, timeout=self._embed_timeout_s)
            _end_late(tickets)
        finally:
            self._cancel(tickets)

    def _cancel(self, tickets: Sequence[Ticket]) -> None:
        """Cancel what has not ended, and count what is not computed for it."""
        for ticket in tickets:
            if ticket.cancel():
                self._metrics.image_cancelled()

    def _answer(self, ticket: Ticket, output: str | None) -> Answer:
        answer = self._outcome(ticket, output)
        if not isinstance(answer, Embedded):
            self._metrics.image_refused(answer.code)
        return answer

    def _outcome(self, ticket: Ticket, output: str | None) -> Answer:
        error = ticket.ended.exception()
        if isinstance(error, Refusal):
            return error
        if error is not None:
            raise error
        assert ticket.decoded is not None
        assert ticket.tokens is not None
        global_token, patch_tokens = ticket.tokens
        if output == PATCHES:
            assert patch_tokens is not None
            vector = patch_tokens
        else:
            of_batch = None if patch_tokens is None else patch_tokens[None]
            vector = pool(global_token[None], of_batch, output or self._artifact.manifest.pooling)[0]
        if not np.isfinite(vector).all():
            return EmbeddingNotFinite("the network gave no finite vector for this image; the artifact needs a look.")
        return Embedded(
            vector,
            ticket.decoded.thumbnail,
            decode_s=ticket.decoded_at - ticket.decoding_at,
            queue_s=(ticket.decoding_at - ticket.admitted_at) + (ticket.computing_at - ticket.decoded_at),
            infer_s=ticket.computed_at - ticket.computing_at,
        )


def _end_late(tickets: Sequence[Ticket]) -> None:
    """End at their deadline those that have not ended."""
    for ticket in tickets:
        if not ticket.ended.done():
            ticket.finish(DeadlinePassed("the image took longer than its request may take; send it again later."))
