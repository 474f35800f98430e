"""Draining at the end of a service: what runs may end, and what comes meanwhile is told to go elsewhere."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

import uvicorn
from starlette.types import Scope

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
