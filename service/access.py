"""Who may ask for what: closed by default, in two places.

Every request needs a key but those to `/livez` and `/readyz`; also one for a route that does not exist, so that nothing about the
service can be learned without it (`RequireKey`, in front of everything). A key of scope `read` opens what changes nothing: GET, and
what is marked `@reads`; all else needs `write` (`ScopedRoute`, the class of every route). Both answer before the body is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from service.bodies import JsonRequest
from service.errors import ScopeMissing, TooManyRequests, Unauthorized
from service.keyring import Keyring
from service.openapi import problems
from service.problems import problem_response
from service.rate import Rates

OPEN_PATHS: Final = frozenset({"/livez", "/readyz"})  # what an orchestrator asks, which has no key
_READS: Final = "__reads__"

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def reads(endpoint: Endpoint) -> Endpoint:
    """Mark the handler of a route other than GET that changes nothing."""
    setattr(endpoint, _READS, True)
    return endpoint


class RequireKey:
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
        state = scope.setdefault("state", {})
        state["key"], state["key_scope"] = key.name, key.scope
        if wait_s := self._rates.wait_s(key.name):
            return TooManyRequests("this key asks too often; slow down.", retry_after_s=math.ceil(wait_s))
        return None


class ScopedRoute(APIRoute):
    """A route that looks at the scope of the key before it does anything, and says in the documentation which it needs."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:  # noqa: ANN401 - FastAPI's
        self._writes = not (set(options.get("methods") or ()) <= {"GET", "HEAD"} or getattr(endpoint, _READS, False))
        if self._writes and 401 in (options.get("responses") or {}):
            options["responses"] = {**options["responses"], **problems(403)}
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request, whose JSON is read as `JsonRequest` reads it."""
        answer = super().get_route_handler()

        async def answer_json(request: Request) -> Response:
            return await answer(JsonRequest(request.scope, request.receive))

        return answer_json

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. Raises ScopeMissing."""
        allowed = scope["method"] in (self.methods or ())  # else it is answered 405
        if self._writes and allowed and scope["state"].get("key_scope") != "write":
            raise ScopeMissing("this key may read, and the request would change something; use a key of scope write.")
        await super().handle(scope, receive, send)


def _presented(scope: Scope) -> list[bytes]:
    """Return the keys that a request carries, in either header, as they were sent."""
    headers = Headers(scope=scope)
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    found = [headers.get("x-api-key", ""), bearer.strip() if scheme.lower() == "bearer" else ""]
    return [key.encode("latin-1") for key in found if key]
