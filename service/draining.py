"""The end of a service: what runs may end, and what comes meanwhile is told to go elsewhere."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

import uvicorn
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import OPEN_PATHS
from service.errors import Stopping
from service.problems import problem_response

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
            refusal = problem_response(
                Request(scope), Stopping("the service is stopping; send the request to another one.")
            )
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
