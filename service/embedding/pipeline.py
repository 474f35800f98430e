"""From an admitted image to its tokens: in line for a decoder, decoded in a process of its own, computed among others.

Each ticket ends on every path: with what was computed, with the error that befell it, or before, when whoever holds it ends it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import structlog

from backbone.preprocess import Preprocess
from service.concurrency.priority_queue import PriorityQueue
from service.concurrency.thread_priority import lower_priority
from service.concurrency.throughput import Throughput
from service.embedding.admission import Ticket
from service.embedding.batcher import Batcher, Run, TokensOfOne
from service.embedding.decoder_pool import Decoded, Decoders
from service.errors import DeadlinePassed
from service.metrics import Metrics

log = structlog.get_logger("service")


@dataclass(frozen=True, slots=True)
class Computed:
    """What became of one image, and what it took."""

    decoded: Decoded
    tokens: TokensOfOne | None  # None: it was to be decoded alone
    decode_s: float
    waited_s: float  # for a decoder


class Pipeline:
    """Decoders in front of a batcher; thread-safe. `end` is told what a ticket ends with, once or, where others end it too, in vain."""

    def __init__(
        self,
        preprocess: Preprocess,
        decoders: Decoders,
        run: Run,
        *,
        lanes: int,
        batch_images: int,
        batch_wait_s: float,
        end: Callable[[Ticket[Computed], Computed | BaseException], None],
        metrics: Metrics,
    ) -> None:
        self._preprocess = preprocess
        self._decoders = decoders
        self._end = end
        self._metrics = metrics
        self._decoding = 0  # taken and not yet with the batcher
        self._decoding_lock = threading.Lock()
        self._answered_at = -math.inf
        self._line: PriorityQueue[Ticket[Computed]] = PriorityQueue()
        self._batcher = Batcher(run, batch_images, batch_wait_s, lambda: self._decoding > 0, metrics.batch_ran, lanes)
        self._decode_pace = Throughput(passes=20)  # of one image each, a few large ones among many small ones
        self._threads = [  # each waits for a decoder process
            threading.Thread(target=self._decode_all, name=f"decode-{i}", daemon=True)
            for i in range(decoders.processes)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting_for_decoder(self) -> int:
        """Return how many images no decoder has taken yet."""
        return len(self._line)

    @property
    def waiting_for_network(self) -> int:
        """Return how many decoded images no pass has taken yet."""
        return self._batcher.waiting

    @property
    def decoder_restarts(self) -> int:
        """Return how often a decoder process had to be started anew."""
        return self._decoders.restarts

    @property
    def answered_at(self) -> float:
        """Return when the network last gave tokens, in monotonic seconds."""
        return self._answered_at

    def alive(self) -> bool:
        """Say whether images that are taken now will be computed."""
        return self._batcher.alive()

    def seconds_per_image(self) -> float:
        """Return what an image takes now: of the two stages, the slower one sets the pace."""
        return max(self._decode_pace.seconds_each, self._batcher.pace.seconds_each)

    def take(self, ticket: Ticket[Computed]) -> bool:
        """Begin with an image; False once the pipeline is closed."""
        with self._decoding_lock:
            self._decoding += 1
        if self._line.put(ticket, ticket.bulk):
            return True
        self._decoded_one()
        return False

    def close(self, within_s: float) -> None:
        """Finish what was taken, then stop; idempotent. What takes longer is left behind."""
        end = time.monotonic() + within_s
        self._line.close()
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        if not self._batcher.close(max(0.0, end - time.monotonic())):
            log.error("network_hangs", detail="a forward pass does not end; the service stops without it")
        self._decoders.close()

    def _decode_all(self) -> None:
        """Have one image after the other decoded, and hand its pixels on to the batcher."""
        lower_priority()
        while tickets := self._line.take():
            for ticket in tickets:
                try:
                    self._decode(ticket)
                except BaseException as error:  # noqa: BLE001 - a declared boundary: whatever it is belongs to the one who waits
                    self._end(ticket, error)
                finally:
                    self._decoded_one()

    def _decoded_one(self) -> None:
        with self._decoding_lock:
            self._decoding -= 1

    def _decode(self, ticket: Ticket[Computed]) -> None:
        if ticket.answer.done():
            self._note_cancelled(ticket)
            return
        begun = time.monotonic()
        if ticket.deadline < begun:
            raise DeadlinePassed("the image waited longer than its request may take; send it again later.")
        try:
            decoded = self._decoders.decode(
                ticket.image, square=ticket.computed or not ticket.thumbnail, thumbnail=ticket.thumbnail
            )
        finally:
            self._decode_pace.record(1, begun, time.monotonic())
        waited_s = begun - ticket.since
        if ticket.computed:
            self._compute(ticket, decoded, begun, waited_s)
        else:
            self._end(ticket, Computed(decoded, None, time.monotonic() - begun, waited_s))

    def _compute(self, ticket: Ticket[Computed], decoded: Decoded, begun: float, waited_s: float) -> None:
        """Have the network compute what is decoded; its ticket ends with the tokens."""
        assert decoded.square is not None
        pixels = self._preprocess.normalised(decoded.square)
        decode_s = time.monotonic() - begun
        tokens = self._batcher.submit(pixels, ticket.deadline, ticket.bulk, ticket.patches)

        def computed(tokens: Future[TokensOfOne]) -> None:
            if tokens.cancelled():  # its ticket ended first
                self._note_cancelled(ticket)
                return
            error = tokens.exception()
            if error is None:
                self._answered_at = time.monotonic()
            self._end(ticket, error or Computed(decoded, tokens.result(), decode_s, waited_s))

        ticket.answer.add_done_callback(lambda _: tokens.cancel())  # nothing, where they are there
        tokens.add_done_callback(computed)

    def _note_cancelled(self, ticket: Ticket[Computed]) -> None:
        if ticket.answer.cancelled():
            self._metrics.image_cancelled()
