"""Admission control: which images may come in, counted in images, bytes and seconds of work.

This is the only place that says no for lack of room, so that the queue, and with it memory and waiting time, is bounded.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Final

from service.embedding.decoder_pool import Decoded
from service.embedding.runtime import Floats, Tokens
from service.errors import Saturated, Stopping

INTERACTIVE_IMAGES: Final = 4  # of a request at most that somebody waits for; more are an upload, and let those pass
NEVER: Final = math.inf  # a deadline for work that nobody stands and waits for


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """The bounds of what waits at a time, and for how long; `service.settings` describes each."""

    queue_images: int
    queue_bytes: int  # of encoded images
    embed_timeout_s: float  # from admission to answer
    queue_wait_s: float  # of work in front of a request of few images


@dataclass(eq=False, slots=True)
class Ticket:
    """One image from admission to its end: what is wanted of it, and what each stage has made of it, and when (monotonic seconds).

    It ends once, with all that it carries, with an error, or cancelled: of several ends the first one counts. From then on it has no
    place and holds neither the image as it came nor its pixels, even where it still waits in a queue.
    """

    admission: Admission = field(repr=False)  # which it leaves at its end
    image: bytes  # as it came
    computed: bool  # by the network; else it is decoded alone
    patches: bool  # whether the patch tokens are wanted too, which cost more
    thumbnail: bool
    deadline: float
    bulk: bool
    decoded: Decoded | None = None
    pixels: Floats | None = None  # [3, H, W], while it waits for the network
    tokens: Tokens | None = None  # ([D], [N, D] where the patch tokens are wanted)
    admitted_at: float = field(default_factory=time.monotonic)
    decoding_at: float = math.inf
    decoded_at: float = math.inf
    computing_at: float = math.inf
    computed_at: float = math.inf
    ended: Future[None] = field(default_factory=Future)

    def finish(self, error: BaseException | None = None) -> None:
        """End with what it carries, or with an error. Its place is free before its caller hears: the next request finds it so."""
        self.admission.leave(self)
        with contextlib.suppress(InvalidStateError):  # it has ended before
            if error is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(error)
        self._forget()

    def cancel(self) -> bool:
        """End because the caller has left; say whether that spares the last stage, which had not begun with it."""
        if self.ended.done() or not self.ended.cancel():
            return False
        self.admission.leave(self)
        self._forget()
        return math.isinf(self.computing_at if self.computed else self.decoding_at)

    def _forget(self) -> None:
        self.image, self.pixels = b"", None


class Admission:
    """The tickets of one embedder; thread-safe.

    Args:
        limits: what may wait.
        batch_images: as many as fit into a pass may always wait.
        seconds_per_image: what an image takes now.
    """

    def __init__(self, limits: AdmissionLimits, batch_images: int, seconds_per_image: Callable[[], float]) -> None:
        self._limits = limits
        self._batch_images = batch_images
        self._seconds_per_image = seconds_per_image
        self._open = True
        self._inside: set[Ticket] = set()
        self._bytes = 0
        self._interactive = 0
        self._lock = threading.Lock()

    @property
    def images(self) -> int:
        """Return how many images are admitted and not yet answered."""
        return len(self._inside)

    @property
    def bytes(self) -> int:
        """Return their bytes as they came."""
        return self._bytes

    def refusal(self) -> Saturated | Stopping | None:
        """Return the error that one more image of a request that somebody waits for would meet now; None where there is room."""
        try:
            with self._lock:
                self._check_room(1, 0, bulk=False, patient=False)
        except (Saturated, Stopping) as error:
            return error
        return None

    def enter(self, tickets: Sequence[Ticket], patient: bool) -> None:
        """Take all of a request's tickets or none; each has its place until it ends. Raises Saturated, Stopping."""
        with self._lock:
            bulk = any(ticket.bulk for ticket in tickets)
            size = sum(len(ticket.image) for ticket in tickets)
            self._check_room(len(tickets), size, bulk, patient)
            self._inside.update(tickets)
            self._bytes += size
            self._interactive += sum(not ticket.bulk for ticket in tickets)

    def leave(self, ticket: Ticket) -> None:
        """Free the place of a ticket that ends, where it has one."""
        with self._lock:
            if ticket in self._inside:
                self._inside.remove(ticket)
                self._bytes -= len(ticket.image)
                self._interactive -= not ticket.bulk

    def close(self) -> None:
        """Let nobody in any more."""
        with self._lock:
            self._open = False

    def _check_room(self, images: int, size: int, bulk: bool, patient: bool) -> None:
        if not self._open:
            raise Stopping()
        waiting = len(self._inside)
        if waiting + images > self._limits.queue_images:
            raise Saturated(
                f"{waiting} images wait to be embedded and the limit is {self._limits.queue_images}; come back in a second."
            )
        if self._bytes + size > self._limits.queue_bytes:
            raise Saturated(
                f"images of {self._bytes:,} bytes wait to be embedded and the limit is {self._limits.queue_bytes:,};"
                " come back in a second."
            )
        if patient:
            return
        # Few images go before many, so that only others of few are in front of them; and as many as fit into a pass may always wait.
        ahead = waiting if bulk else self._interactive
        most_s = self._limits.embed_timeout_s
        if not bulk and ahead + images > self._batch_images:
            most_s = min(most_s, self._limits.queue_wait_s)
        takes_s = (ahead + images) * self._seconds_per_image()
        if ahead and takes_s > most_s:
            raise Saturated(f"what waits takes {takes_s:.0f} s, longer than a request may; come back in some seconds.")
