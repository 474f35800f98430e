"""Who may come in: images that were taken and not yet answered, counted in images, bytes and seconds of work.

This is the only place that says no for lack of room, so that the queue, and with it memory and waiting time, is bounded.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from service.errors import Saturated, Stopping

INTERACTIVE_IMAGES: Final = 4  # of a request at most that somebody waits for; more are an upload, and let those pass

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Limits:
    """What may wait at a time, and for how long."""

    images: int
    bytes: int  # of encoded images
    seconds: float  # from admission to answer
    interactive_seconds: float = math.inf  # of work in front of a request that somebody waits for


@dataclass(eq=False, slots=True)
class Ticket(Generic[A]):
    """One admitted image, from admission to answer."""

    image: bytes  # none once it is answered: who cancels holds no memory, even where its turn has not come
    computed: bool  # by the network; else it is decoded alone
    patches: bool  # whether the patch tokens are wanted too, which cost more
    thumbnail: bool
    deadline: float  # monotonic seconds
    bulk: bool
    answer: Future[A] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Admission(Generic[A]):
    """The tickets of one embedder; thread-safe.

    Args:
        limits: what may wait.
        batch_images: as many as fit into a pass may always wait.
        seconds_per_image: what an image takes now.
    """

    def __init__(self, limits: Limits, batch_images: int, seconds_per_image: Callable[[], float]) -> None:
        self._limits = limits
        self._batch_images = batch_images
        self._seconds_per_image = seconds_per_image
        self._open = True
        self._inside: dict[Ticket[A], int] = {}  # with its bytes
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

    def enter(self, tickets: Sequence[Ticket[A]], patient: bool) -> None:
        """Take all of a request's tickets or none; the place of one that is cancelled is free again. Raises Saturated, Stopping."""
        with self._lock:
            bulk = any(ticket.bulk for ticket in tickets)
            self._check_room(len(tickets), sum(len(ticket.image) for ticket in tickets), bulk, patient)
            for ticket in tickets:
                self._inside[ticket] = len(ticket.image)
                self._bytes += len(ticket.image)
                self._interactive += not ticket.bulk
        for ticket in tickets:
            ticket.answer.add_done_callback(functools.partial(self._left, ticket))

    def end(self, ticket: Ticket[A], answer: A | BaseException) -> None:
        """Answer a ticket that has no answer yet. Its place is free before its caller hears, so that the next request finds it so."""
        if not self._leave(ticket) or not ticket.answer.set_running_or_notify_cancel():
            return
        if isinstance(answer, BaseException):
            ticket.answer.set_exception(answer)
        else:
            ticket.answer.set_result(answer)

    def _left(self, ticket: Ticket[A], _: object) -> None:
        self._leave(ticket)

    def _leave(self, ticket: Ticket[A]) -> bool:
        """Free the place of a ticket that ends; say whether it had one, for of several ends the first one counts."""
        with self._lock:
            size = self._inside.pop(ticket, None)
            if size is None:
                return False
            self._bytes -= size
            self._interactive -= not ticket.bulk
        ticket.image = b""
        return True

    def close(self) -> None:
        """Let nobody in any more."""
        with self._lock:
            self._open = False

    def _check_room(self, images: int, size: int, bulk: bool, patient: bool) -> None:
        if not self._open:
            raise Stopping("the service is stopping; send the request to another one.")
        waiting = len(self._inside)
        if waiting + images > self._limits.images:
            raise Saturated(
                f"{waiting} images wait to be embedded and the limit is {self._limits.images}; come back in a second."
            )
        if self._bytes + size > self._limits.bytes:
            raise Saturated(
                f"images of {self._bytes:,} bytes wait to be embedded and the limit is {self._limits.bytes:,};"
                " come back in a second."
            )
        if patient:
            return
        # Few images go before many, so that only others of few are in front of them; and as many as fit into a pass may always wait.
        ahead = waiting if bulk else self._interactive
        most_s = self._limits.seconds
        if not bulk and ahead + images > self._batch_images:
            most_s = min(most_s, self._limits.interactive_seconds)
        takes_s = (ahead + images) * self._seconds_per_image()
        if ahead and takes_s > most_s:
            raise Saturated(f"what waits takes {takes_s:.0f} s, longer than a request may; come back in some seconds.")
