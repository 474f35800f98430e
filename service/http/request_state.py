"""The state of one request, as typed fields: what the layers and the handlers learn of it, for its answer and its line in the log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from starlette.types import Scope

from service.http.keys import Scope as KeyScope
from service.http.request_memory import Reservation

_PLACE: Final = "dinodex"  # in the ASGI state, beside what a lifespan may have put there


class Timings:
    """Seconds by stage (decode, queue, infer, search) of one request; a stage done side by side counts once, at its longest."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def longest(self, stage: str, seconds: float) -> None:
        """Count one of several items that went through a stage side by side."""
        self.seconds[stage] = max(seconds, self.seconds.get(stage, 0.0))

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the time inside the block."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begun

    def header(self) -> str:
        """Return the stages as `Server-Timing` wants them, in milliseconds."""
        return ", ".join(f"{stage};dur={seconds * 1000:.2f}" for stage, seconds in self.seconds.items())


@dataclass
class RequestState:
    """The facts about one request so far."""

    request_id: str = ""  # empty until it has one
    timings: Timings = field(default_factory=Timings)
    key: str | None = None  # the name of the key that it carries
    key_scope: KeyScope | None = None
    announced_too_large: bool = False  # a chunk of its body says that it will be
    reservation: Reservation | None = None  # its part of the memory of all requests
    fingerprint: str | None = None  # of the model that its answer names
    code: str | None = None  # of the error that it is answered with


def request_state(scope: Scope) -> RequestState:
    """Return the state of a request: a fresh one the first time, also where no layer of the application has seen it."""
    state = scope.setdefault("state", {})
    found: RequestState | None = state.get(_PLACE)
    if found is None:
        found = state[_PLACE] = RequestState()
    return found
