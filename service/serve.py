"""The process of the service: it owns the port, opens everything, answers until SIGTERM, lets running requests end, and exits 0."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import cast

import uvicorn

from service.app import Application, create_app
from service.errors import PortInUse, SettingsInvalid
from service.http.draining import DrainingServer
from service.http.protocol import TimedProtocol
from service.http.request_log import configure_logging
from service.settings import Settings

_GRACE_S = 1  # after the drain, for answers that are on their way to slow readers
_SWITCH_S = 0.001  # after which a thread hands the interpreter on to the event loop; Python's own 5 ms is all that a refusal may take
_BACKLOG = 2048  # connections that may wait while the model loads; uvicorn's own default


def serve(settings: Settings, announce: Callable[[str], None] = lambda url: None) -> None:
    """Serve until SIGTERM or SIGINT; to be called in the main thread.

    Args:
        settings: what to serve, and where.
        announce: called once with the service's URL when it answers.

    Raises:
        PortInUse: another program listens there.
        BackboneError, ServiceError: what `lifespan.open_service` cannot open.
    """
    configure_logging(settings.log_level)
    sys.setswitchinterval(_SWITCH_S)
    app = create_app(settings)
    listening = _listen(settings.host, settings.port)
    server = make_server(app, settings)

    async def run() -> None:
        async with app.router.lifespan_context(app):
            announce(_url(listening, settings.host))
            await server.serve(sockets=[listening])

    # uvicorn drains at the first SIGTERM and then raises the signal again, for whoever handled it before: here, a clean exit.
    # The same handler ends a start that has not got as far as uvicorn.
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        asyncio.run(run())
    finally:
        signal.signal(signal.SIGTERM, before)
        listening.close()


def make_server(app: Application, settings: Settings) -> DrainingServer:
    """Return the web server that runs `app`."""
    protocol = partial(TimedProtocol, settings=settings, metrics=app.metrics)  # uvicorn calls it for every connection
    config = uvicorn.Config(
        app,
        http=cast(type[TimedProtocol], protocol),
        ws="none",  # no route speaks it
        lifespan="off",  # entered by `serve`, so that what goes wrong in it keeps its type
        log_config=None,
        access_log=False,  # `request_log` writes one line a request
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=_GRACE_S,
    )
    return DrainingServer(config, app.drain, settings.drain_s)


def _exit(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket: from here on the port is ours, and early clients wait instead of being refused."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise SettingsInvalid(f"the host {host} cannot be resolved ({error.strerror}); check DINODEX_HOST.") from error
    # `protocol` says TCP where it could be 0: only then does asyncio turn Nagle off, which costs small answers 40 ms.
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a service before us may linger
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"port {port} on {host} is in use; stop that program or choose another port.") from error
        raise SettingsInvalid(f"cannot listen on {host} port {port} ({error.strerror}); choose another.") from error
    return listening


def _url(listening: socket.socket, host: str) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
