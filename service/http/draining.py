"""Draining at the end of a service: what runs may end, and what comes meanwhile is told to go elsewhere."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Stopping
from service.http.auth import OPEN_PATHS

_POLL_S: Final = 0.05  # between two looks whether somebody wants it to end at once


class Drain:
    """Whether the service is stopping, and which requests run that it waits for. Used by the event loop alone."""

    def __init__(self) -> None:
        self.stopping = False
        self.running: set[asyncio.Task[Any]] = set()

    def refusal(self, scope: Scope) -> Stopping | None:
        """Return why a request is refused, as a check of the gate; one that is not is waited for at the end.

        Health checks go on: a process that drains is alive, and says itself that it is not ready. They need no key, so nobody waits
        for them, nor for what an earlier check refuses: else whoever reads no answers could hold up the end.
        """
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            return None
        if self.stopping:
            return Stopping()
        task = asyncio.current_task()
        assert task is not None  # the web server runs each request in one
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return None


class ClosingAnswers:
    """ASGI middleware inside of the gate: when the service stops, what still runs has the last answer of its connection.

    A proxy then takes the connection out of its pool, instead of sending a request into it at the moment in which it ends. Health
    checks, which are only asked again, keep theirs.
    """

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""

        health = scope["type"] != "http" or scope["path"] in OPEN_PATHS

        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._drain.stopping and not health:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, send_closing)


class DrainingServer(uvicorn.Server):
    """Listens until the last request that runs has ended, so that new ones hear 503 and are not cut off."""

    def __init__(self, config: uvicorn.Config, drain: Drain, timeout_s: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._timeout_s = timeout_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for what runs, for so long at most, and then stop as uvicorn does: what still runs is cancelled."""
        self._drain.stopping = True
        loop = asyncio.get_running_loop()
        end = loop.time() + self._timeout_s
        running = set(self._drain.running)  # those that come from now on are refused
        while running and loop.time() < end and not self.force_exit:
            _, running = await asyncio.wait(running, timeout=_POLL_S)
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # whoever still waits hears so now, and not when the process ends
        await asyncio.sleep(0)  # for the loop to close them
