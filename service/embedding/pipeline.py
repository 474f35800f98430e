"""The pipeline of an image: it waits for a decoder, is decoded in a process of its own, and is computed in a batch with others.

Its ticket goes from stage to stage and ends on every path: here, in the batcher, or before, when whoever holds it ends it.
"""

from __future__ import annotations

import threading
import time

import structlog

from backbone.preprocess import Preprocess
from service.concurrency.priority_queue import PriorityQueue
from service.concurrency.thread_priority import lower_priority
from service.concurrency.throughput import Throughput
from service.embedding.admission import Ticket
from service.embedding.batcher import Batcher
from service.embedding.decoder_pool import Decoded, Decoders
from service.embedding.runtime import ForwardPass
from service.errors import DeadlinePassed, Stopping
from service.metrics import Metrics

log = structlog.get_logger("service")


class Pipeline:
    """Decoders in front of a batcher; thread-safe."""

    def __init__(
        self,
        preprocess: Preprocess,
        decoders: Decoders,
        forward: ForwardPass,
        *,
        streams: int,
        batch_images: int,
        batch_wait_s: float,
        metrics: Metrics,
    ) -> None:
        self._preprocess = preprocess
        self._decoders = decoders
        self._decoding = 0  # taken and not yet with the batcher
        self._decoding_lock = threading.Lock()
        self._queue: PriorityQueue[Ticket] = PriorityQueue()
        self._batcher = Batcher(
            forward, batch_images, batch_wait_s, lambda: self._decoding > 0, metrics.batch_ran, streams
        )
        self._decode_throughput = Throughput(passes=20)  # of one image each, a few large ones among many small ones
        self._threads = [  # each waits for a decoder process
            threading.Thread(target=self._decode_all, name=f"decode-{i}", daemon=True)
            for i in range(decoders.decode_workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, ticket: Ticket) -> None:
        """Begin with an image: it waits for a decoder."""
        with self._decoding_lock:
            self._decoding += 1
        if not self._queue.put(ticket, ticket.bulk):
            self._decoding_ended()
            ticket.finish(Stopping())

    def _decode_all(self) -> None:
        """Take one image after the other from the queue to the batcher."""
        lower_priority()
        while tickets := self._queue.take():
            for ticket in tickets:
                try:
                    self._decode_and_hand_on(ticket)
                except BaseException as error:  # noqa: BLE001 - a declared boundary: whatever it is belongs to the one who waits
                    ticket.finish(error)
                finally:
                    self._decoding_ended()

    def _decode_and_hand_on(self, ticket: Ticket) -> None:
        """Decode an image, and have the network compute it where that is wanted; the batcher finishes its ticket."""
        if ticket.ended.done():
            return
        ticket.decoding_at = time.monotonic()
        if ticket.deadline < ticket.decoding_at:
            raise DeadlinePassed("the image waited longer than its request may take; send it again later.")
        ticket.decoded = decoded = self._decode(ticket)
        if not ticket.computed:
            ticket.finish()
            return
        assert decoded.square is not None
        pixels = self._preprocess.normalised(decoded.square)
        ticket.decoded_at = time.monotonic()
        self._batcher.submit(ticket, pixels)

    def _decode(self, ticket: Ticket) -> Decoded:
        try:
            return self._decoders.decode(
                ticket.image, square=ticket.computed or not ticket.thumbnail, thumbnail=ticket.thumbnail
            )
        finally:
            self._decode_throughput.record(1, ticket.decoding_at, time.monotonic())

    def _decoding_ended(self) -> None:
        with self._decoding_lock:
            self._decoding -= 1

    def close(self, within_s: float) -> None:
        """Finish what was taken, then stop; idempotent. What takes longer is left behind."""
        end = time.monotonic() + within_s
        self._queue.close()
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        if not self._batcher.close(max(0.0, end - time.monotonic())):
            log.error("network_hangs", detail="a forward pass does not end; the service stops without it")
        self._decoders.close()

    def alive(self) -> bool:
        """Say whether images that are submitted now will be computed."""
        return self._batcher.alive()

    def seconds_per_image(self) -> float:
        """Return what an image takes now: of the two stages, the slower one is the bottleneck."""
        return max(self._decode_throughput.seconds_per_item, self._batcher.throughput.seconds_per_item)

    @property
    def waiting_for_decoder(self) -> int:
        """Return how many images no decoder has taken yet."""
        return len(self._queue)

    @property
    def waiting_for_network(self) -> int:
        """Return how many decoded images no pass has taken yet."""
        return self._batcher.waiting

    @property
    def computed_at(self) -> float:
        """Return when the network last gave tokens, in monotonic seconds."""
        return self._batcher.computed_at
