"""Who may ask for what: closed by default, in two places.

Every request needs a key but those to `/livez` and `/readyz`; also one for a route that does not exist, so that nothing about the
service can be learned without it (`KeyCheck`, in front of everything). A key of scope `read` opens what changes nothing: GET, and
what is marked `@reads`; all else needs `write` (`ScopedRoute`, the class of every route). Both answer before the body is read.
"""

from __future__ import annotations

import math
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from service.errors import TooManyRequests, Unauthorized
from service.http.keyring import Keyring
from service.http.problems import problem_response
from service.http.rate_limit import Rates
from service.http.request_state import request_state

OPEN_PATHS: Final = frozenset({"/livez", "/readyz"})  # what an orchestrator asks, which has no key


class KeyCheck:
    """ASGI middleware: answers 401 to whatever does not carry a valid key, and 429 to a key that asks too often."""

    def __init__(self, app: ASGIApp, keyring: Keyring, rates: Rates) -> None:
        self._app = app
        self._keyring = keyring
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan" or scope.get("path") in OPEN_PATHS or (error := self._refusal(scope)) is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
        else:
            await problem_response(Request(scope), error)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Unauthorized | TooManyRequests | None:
        key = self._keyring.find(_presented(scope))
        if key is None:
            return Unauthorized(
                "a valid API key is needed; send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
            )
        state = request_state(scope)
        state.key, state.key_scope = key.name, key.scope
        if wait_s := self._rates.wait_s(key.name):
            return TooManyRequests("this key asks too often; slow down.", retry_after_s=math.ceil(wait_s))
        return None


def _presented(scope: Scope) -> list[bytes]:
    """Return the keys that a request carries, in either header, as they were sent."""
    headers = Headers(scope=scope)
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    found = [headers.get("x-api-key", ""), bearer.strip() if scheme.lower() == "bearer" else ""]
    return [key.encode("latin-1") for key in found if key]
