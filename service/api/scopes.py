"""Key scopes: a route but GET needs `write`, unless its handler is marked `@reads`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.openapi import problems
from service.errors import ScopeMissing
from service.http.bodies import JsonRequest
from service.http.request_state import request_state

_READS: Final = "__reads__"

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def reads(endpoint: Endpoint) -> Endpoint:
    """Mark the handler of a route other than GET that changes nothing."""
    setattr(endpoint, _READS, True)
    return endpoint


class ScopedRoute(APIRoute):
    """A route that looks at the scope of the key before it does anything, and says in the documentation which it needs."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:  # noqa: ANN401 - FastAPI's
        self._writes = not (set(options.get("methods") or ()) <= {"GET", "HEAD"} or getattr(endpoint, _READS, False))
        if self._writes and 401 in (options.get("responses") or {}):
            options["responses"] = {**options["responses"], **problems(403)}
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of a request, whose JSON is read as `JsonRequest` reads it."""
        answer = super().get_route_handler()

        async def answer_json(request: Request) -> Response:
            return await answer(JsonRequest(request.scope, request.receive))

        return answer_json

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. Raises ScopeMissing."""
        allowed = scope["method"] in (self.methods or ())  # else it is answered 405
        if self._writes and allowed and request_state(scope).key_scope != "write":
            raise ScopeMissing("this key may read, and the request would change something; use a key of scope write.")
        await super().handle(scope, receive, send)
