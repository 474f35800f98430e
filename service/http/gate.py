"""A gate in front of the application: checks of what a request says before its body is read; the first one that refuses it answers."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from service.errors import Stopping
from service.http.problems import problem_response

Check = Callable[[Scope], Exception | None]  # why a request, or a websocket, is refused; None where it may go on


class Gate:
    """ASGI middleware: answers what one of its checks refuses, in their order.

    The connection stays open but where the service stops, and what arrives of the body is dropped by the web server.
    """

    def __init__(self, app: ASGIApp, *checks: Check) -> None:
        self._app = app
        self._checks = checks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        error = None if scope["type"] == "lifespan" else self._refusal(scope)
        if error is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
        else:
            answer = problem_response(Request(scope), error)
            if isinstance(error, Stopping):
                answer.headers["Connection"] = "close"  # so that the next request goes elsewhere
            await answer(scope, receive, send)

    def _refusal(self, scope: Scope) -> Exception | None:
        for check in self._checks:
            if (error := check(scope)) is not None:
                return error
        return None
