"""Under overload most requests are refused, and what each refusal costs is taken from those that are answered.

So the most frequent ones are made in front of the framework, before a body is read: one image that there is no room for, and a search.

At the end of a service what runs may end, and what comes meanwhile is told to go elsewhere.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

import uvicorn
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.embedding.models import Models
from service.errors import Stopping, Unavailable
from service.http.auth import OPEN_PATHS
from service.http.content_type import IMAGE, declared_kind
from service.http.problems import problem_response
from service.lifespan import Service

_SEARCHES = ("/query", "/query/batch", "/classify")  # what these paths end with, and no others of a POST


class RefuseEarly:
    """ASGI middleware: answers 503 to a POST whose body is one raw image while no loaded model has room for one, and to searches that
    could not even wait.

    Other bodies tell how many images they hold only when they are read, and a PUT may be of an image that is stored already: the
    embedder itself answers those. The connection stays open, and what arrives of the body is dropped by the web server.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if (error := _refusal(scope)) is not None:
            await problem_response(Request(scope), error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _refusal(scope: Scope) -> Unavailable | None:
    """Return why a request would not be answered now; None where it may be."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    service: Service = scope["app"].state.service
    error: Unavailable | None = None
    if _holds_image(scope):
        error = _refusal_to_embed(service.models)
    if error is None and scope["path"].startswith("/v1/collections/") and scope["path"].endswith(_SEARCHES):
        error = service.searches.refusal()  # also before an image is embedded to search by it
    return error


def _holds_image(scope: Scope) -> bool:
    return declared_kind(Headers(scope=scope)) == IMAGE


def _refusal_to_embed(models: Models) -> Unavailable | None:
    """Return why no model would take an image now; None where one does."""
    error = None
    for model in models.all():
        error = model.embedder.refusal()
        if error is None:
            return None
    return error


_LOOK_S: Final = 0.05  # between two looks whether the last request has ended


class Drain:
    """Whether the service is stopping, and how many requests run. Used by the event loop alone."""

    def __init__(self) -> None:
        self.stopping = False
        self.running = 0


class RefuseWhileStopping:
    """ASGI middleware: counts the requests that run, and answers 503 to new ones once the service is stopping.

    Health checks go on: a process that drains is alive, and says itself that it is not ready.
    """

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
        elif self._drain.stopping:
            refusal = problem_response(Request(scope), Stopping())
            refusal.headers["Connection"] = "close"  # so that the next one goes elsewhere
            await refusal(scope, receive, send)
        else:
            self._drain.running += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._drain.running -= 1


class DrainingServer(uvicorn.Server):
    """Listens until the last request that runs has ended, so that new ones hear 503 and are not cut off."""

    def __init__(self, config: uvicorn.Config, drain: Drain, within_s: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._within_s = within_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for what runs, for so long at most, and then stop as uvicorn does: what still runs is cancelled."""
        self._drain.stopping = True
        loop = asyncio.get_running_loop()
        end = loop.time() + self._within_s
        while self._drain.running and loop.time() < end and not self.force_exit:
            await asyncio.sleep(_LOOK_S)
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # whoever still waits hears so now, and not when the process ends
        await asyncio.sleep(0)  # for the loop to close them
