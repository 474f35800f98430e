"""The limits of a body: how long it takes, how large it says that it will be, and how much memory it becomes.

Time: a body that comes too slowly is answered 408. The connection itself is cut by `protocol`.

Size: a body in chunks that will be too large is refused when it says so: 413 with the header of the chunk that goes beyond the limit.
The framework compares a length that the headers declare, and what has arrived. Between the two is a chunk of which there is little more
than its size yet, and whose rest may never come. `protocol` sees it; its caller is told here, as for a declared length: who has no key
hears that, and the refusal is logged and counted as any other.

Memory: what a request will hold is reckoned from above while its body arrives, before anything of it is parsed; a declared length
counts at once, before the first byte is read. A request that does not fit now is answered 503, one that never would 413, so that no
number of callers, and no body, takes more than there is.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.content_type import IMAGE, MULTIPART, NPY, declared_kind
from service.http.problems import http_response
from service.http.request_memory import RequestMemory, Reservation
from service.http.request_state import RequestState, request_state

# Measured peaks, rounded up. A body that is taken as it is exists in chunks and joined; a form as files, as their bytes, and in chunks;
# JSON also as text, and decoded from that.
COPIES_TAKEN: Final = 2
COPIES_OF_FORM: Final = 3
COPIES_PARSED: Final = 4
# Of JSON as Python's objects, checked copy included: a number and its places in two lists; a string and its place in a dictionary; and
# a point or a query as an object of its class.
BYTES_PER_VALUE: Final = 72
BYTES_PER_KEY: Final = 160
BYTES_PER_OBJECT: Final = 800
_COPIES: Final[dict[str | None, int]] = {IMAGE: COPIES_TAKEN, NPY: COPIES_TAKEN, MULTIPART: COPIES_OF_FORM}


def hold(request: Request, more_bytes: int) -> None:
    """Hold so much more memory for a request: for its answer, before that is made. Raises HTTPException as `Reservation.grow`."""
    reservation = request_state(request.scope).reservation
    assert reservation is not None  # every route is inside of BodyLimits
    reservation.grow(more_bytes)


class BodyLimits:
    """ASGI middleware: lets a request in, and each part of its body, where it comes in time, is small enough and finds memory."""

    def __init__(self, app: ASGIApp, memory: RequestMemory, max_body_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._memory = memory
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, state = Headers(scope=scope), request_state(scope)
        copies = _COPIES.get(declared_kind(headers), COPIES_PARSED)  # whatever is no kind at all counts as the most
        declared = declared_length(headers)
        if declared > self._max_body_bytes:
            declared = 0  # the framework answers it without reading
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        arrived, complete = 0, False

        with Reservation(self._memory) as reservation:
            state.reservation = reservation

            async def receive_within() -> Message:
                nonlocal arrived, complete
                # After the body one waits for the caller to leave, as long as that takes.
                message = await (receive() if complete else _receive_until(deadline, receive))
                _check_announced(state)
                if body := message.get("body"):
                    beyond = max(0, arrived + len(body) - max(declared, arrived))  # what was not declared
                    arrived += len(body)
                    reservation.grow(copies * beyond + (bytes_of_values(body) if copies == COPIES_PARSED else 0))
                complete = not message.get("more_body", False)
                return message

            try:
                _check_announced(state)
                reservation.grow(copies * declared)
            except HTTPException as refusal:
                await http_response(Request(scope), refusal)(scope, receive, send)
            else:
                await self._app(scope, receive_within, send)


async def _receive_until(deadline: float, receive: Receive) -> Message:
    """Return the next message. Raises HTTPException (408) where it is not there in time."""
    try:
        async with asyncio.timeout_at(deadline):
            return await receive()
    except TimeoutError:
        raise HTTPException(408, headers={"Connection": "close"}) from None


def _check_announced(state: RequestState) -> None:
    """Refuse a body that announces too much. Raises HTTPException (413)."""
    if state.announced_too_large:
        raise HTTPException(413, headers={"Connection": "close"})


def declared_length(headers: Headers) -> int:
    """Return the declared length of a body; 0 where it has none."""
    declared = headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else 0


def bytes_of_values(text: bytes) -> int:
    """Return what the values in a part of a JSON text take at most: each has a comma or a bracket in front, a key a colon behind."""
    values, keys, objects = text.count(b",") + text.count(b"["), text.count(b":"), text.count(b"{")
    return BYTES_PER_VALUE * values + BYTES_PER_KEY * keys + BYTES_PER_OBJECT * objects
