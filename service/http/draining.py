"""Draining at the end of a service: what runs may end, and what comes meanwhile is told to go elsewhere."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

import uvicorn
from starlette.types import Scope

from service.errors import Stopping
from service.http.auth import OPEN_PATHS

_POLL_S: Final = 0.05  # between two looks whether somebody wants it to end at once


class Drain:
    """Whether the service is stopping. Used by the event loop alone."""

    def __init__(self) -> None:
        self.stopping = False

    def refusal(self, scope: Scope) -> Stopping | None:
        """Return why a request is refused, as a check of the gate.

        Health checks go on: a process that drains is alive, and says itself that it is not ready.
        """
        refused = self.stopping and scope["type"] == "http" and scope["path"] not in OPEN_PATHS
        return Stopping() if refused else None


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
        running = set(self.server_state.tasks)  # one for each request; those that come from now on are refused
        while running and loop.time() < end and not self.force_exit:
            _, running = await asyncio.wait(running, timeout=_POLL_S)
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # whoever still waits hears so now, and not when the process ends
        await asyncio.sleep(0)  # for the loop to close them
