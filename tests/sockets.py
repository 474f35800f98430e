"""A service on a real socket, and raw connections to it: what no HTTP client would send."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.settings import Settings

ENOUGH_S = 10.0  # for a loaded machine; what is asserted is that it ends at all


@contextmanager
def listening_service(settings: Settings) -> Iterator[int]:
    """Run the service as `dinodex serve` does, in a thread; its port."""
    from service.app import create_app
    from service.serve import make_server

    app = create_app(settings)
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, as `serve` names it
    listening.bind(("127.0.0.1", 0))
    listening.listen(2048)
    server = make_server(app, settings)

    async def run() -> None:
        async with app.router.lifespan_context(app):
            await server.serve(sockets=[listening])

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    found: int = listening.getsockname()[1]
    try:
        with connected(found) as ready:
            ready.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in ready.recv(100)
        gc.collect()
        gc.freeze()  # a collector that looks through the leavings of a thousand tests stops this thread, too (tests/conftest.py)
        yield found
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """Connect to it."""
    with socket.create_connection(("127.0.0.1", port), timeout=ENOUGH_S) as connection:
        yield connection


def all_of(connection: socket.socket) -> bytes:
    """Return what comes until the service closes the connection."""
    parts = []
    while True:
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            part = b""
        if not part:
            return b"".join(parts)
        parts.append(part)


def alive(port: int, within_s: float) -> bool:
    """Say whether the service answers another caller in that time."""
    with connected(port) as other:
        begun = time.monotonic()
        other.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return b" 200 " in all_of(other) and time.monotonic() - begun < within_s


def probe_s(connection: socket.socket) -> float:
    """Ask /livez on an open connection; return how long the answer took."""
    begun = time.perf_counter()
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while not answer.endswith(b"}"):
        answer += connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200 ")
    return time.perf_counter() - begun
