"""A body in chunks that will be too large is refused when it says so: 413 with the header of the chunk that goes beyond the limit.

The framework compares a length that the headers declare, and what has arrived. Between the two is a chunk of which there is little
more than its size yet, and whose rest may never come. Its caller is told by the application, as for a declared length: who has no key
hears that, and the refusal is logged and counted as any other.
"""

from __future__ import annotations

from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import http_response

_STATE: Final = "announced_too_much"


def left_of_chunk(reader: object) -> int:
    """Return how many bytes of a chunk that has begun are still to come, given what h11 reads the connection with; 0 for no chunk.

    h11 publishes no size of a chunk before its last byte is there, and reading the headers of chunks a second time would need another
    parser that agrees with it on every byte. So this looks at its reader. Where another version calls it otherwise, nothing is found:
    such a body ends at its deadline, with 408, and a test of S27 fails.
    """
    found = getattr(reader, "_bytes_in_chunk", 0)
    return found if isinstance(found, int) else 0


def tell_too_large(scope: Scope) -> None:
    """Have a request refused, at the next part of its body that is asked for at the latest."""
    scope["state"][_STATE] = True


class WithinAnnounced:
    """ASGI middleware: answers 413 to a request of which the web server has told that it will be too large."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        refusal = HTTPException(413, headers={"Connection": "close"})

        async def receive_within() -> Message:
            message = await receive()
            if _STATE in scope["state"]:
                raise refusal
            return message

        if scope["type"] == "http" and _STATE in scope["state"]:
            await http_response(Request(scope), refusal)(scope, receive, send)
        else:
            await self._app(scope, receive_within if scope["type"] == "http" else receive, send)
