"""S45: a service that stops ends what runs, tells what comes to go elsewhere, and then is gone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx
import pytest
from pictures import encoded, picture

from service.errors import Stopping

if TYPE_CHECKING:
    from service.http.draining import DrainingServer
    from service.settings import Settings

IMAGE = {"content-type": "image/png"}
PICTURE = encoded(picture())


class Stopped:
    """A service that was told to stop while it embeds an image; `before_stop` gets its port just before."""

    def __init__(
        self, settings: Settings, gate: threading.Event, before_stop: Callable[[int], None] = lambda port: None
    ) -> None:
        from service.app import create_app
        from service.serve import make_server

        self._app = create_app(settings)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.server: DrainingServer = make_server(self._app, settings)
        self.thread = threading.Thread(target=asyncio.run, args=(self._run(),), daemon=True)
        self.asking = threading.Thread(target=self._ask)
        self.answer: httpx.Response | Exception | None = None
        self._gate = gate
        self._before_stop = before_stop

    async def _run(self) -> None:
        async with self._app.router.lifespan_context(self._app):
            await self.server.serve(sockets=[self._listening])

    def _ask(self) -> None:
        try:
            self.answer = httpx.post(f"{self.url}/v1/embed", content=PICTURE, headers=IMAGE, timeout=60)
        except httpx.TransportError as error:
            self.answer = error

    def __enter__(self) -> Stopped:
        self.thread.start()
        httpx.get(f"{self.url}/livez", timeout=30).raise_for_status()
        self._gate.clear()
        self.asking.start()
        end = time.monotonic() + 20
        while "dinodex_queue_images 1.0" not in httpx.get(f"{self.url}/metrics").text:
            assert time.monotonic() < end
        self._before_stop(self.port)
        self.server.should_exit = True
        while not self._app.drain.stopping:
            assert time.monotonic() < end
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._gate.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


def test_s45_what_runs_is_answered_what_comes_hears_503_and_then_the_service_is_gone(
    make_settings: Callable[..., Settings], network_gate: threading.Event
) -> None:
    with Stopped(make_settings(), network_gate) as service:
        for method, path in (("POST", "/v1/embed"), ("GET", "/v1/collections"), ("PUT", "/v1/collections/c")):
            refused = httpx.request(method, f"{service.url}{path}", headers=IMAGE, content=PICTURE)
            assert (refused.status_code, refused.json()["code"]) == (503, "stopping")
            assert refused.json()["detail"] == "the service is stopping; send the request to another one."
            assert (refused.headers["retry-after"], refused.headers["connection"]) == ("5", "close")
        assert httpx.get(f"{service.url}/livez").status_code == 200
        ready = httpx.get(f"{service.url}/readyz")
        assert (ready.status_code, ready.json()["checks"]["embedder"]) == (503, False)
        network_gate.set()
        service.asking.join(30)
        assert isinstance(service.answer, httpx.Response)
        assert service.answer.status_code == 200
        service.thread.join(30)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{service.url}/livez")


def test_s45_what_does_not_end_in_its_time_is_cut_off(
    make_settings: Callable[..., Settings], network_gate: threading.Event
) -> None:
    begun = time.monotonic()
    with Stopped(make_settings(drain_s=1), network_gate) as service:
        service.asking.join(20)
        assert not isinstance(service.answer, httpx.Response) or service.answer.status_code >= 500
        network_gate.set()  # else the embedder, too, would wait for its pass
    assert time.monotonic() - begun < 20


def reads_nothing(port: int) -> socket.socket:
    """Return a connection that sends requests without a key and reads no answers, so that the service reads no more of it either."""
    idle = socket.socket()
    idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    idle.settimeout(1)
    idle.connect(("127.0.0.1", port))
    with pytest.raises(TimeoutError):  # noqa: PT012
        while True:
            idle.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
    return idle


@pytest.mark.parametrize("when", ["before", "after"])
def test_who_reads_no_answers_to_health_checks_does_not_prolong_the_end(
    make_settings: Callable[..., Settings], network_gate: threading.Event, when: str
) -> None:
    with contextlib.ExitStack() as opened:
        settings = make_settings(write_timeout_s=60, drain_s=60)

        def fill(port: int) -> None:
            opened.enter_context(reads_nothing(port))

        stopped = Stopped(settings, network_gate, before_stop=fill if when == "before" else lambda port: None)
        service = opened.enter_context(stopped)
        if when == "after":
            fill(service.port)
        network_gate.set()
        service.asking.join(30)
        service.thread.join(20)
        assert not service.thread.is_alive()


def test_a_drain_refuses_requests_and_neither_health_checks_nor_websockets() -> None:
    from service.http.draining import Drain

    drain = Drain()
    open_to_all = (
        {"type": "http", "path": "/livez"},
        {"type": "http", "path": "/readyz"},
        {"type": "websocket", "path": "/"},
    )

    async def ask() -> None:
        assert [drain.refusal(scope) for scope in open_to_all] == [None] * 3
        assert drain.running == set()  # nobody waits for those
        assert drain.refusal({"type": "http", "path": "/v1/model"}) is None
        assert drain.running == {asyncio.current_task()}
        drain.stopping = True
        assert isinstance(drain.refusal({"type": "http", "path": "/v1/model"}), Stopping)
        assert [drain.refusal(scope) for scope in open_to_all] == [None] * 3

    asyncio.run(ask())
    assert drain.running == set()


def test_s45_a_stranger_learns_nothing_of_the_end(
    make_settings: Callable[..., Settings], network_gate: threading.Event
) -> None:
    settings = make_settings(allow_anonymous=False, api_key="k" * 20)
    from service.app import create_app

    app = create_app(settings)
    app.drain.stopping = True
    from starlette.testclient import TestClient

    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/v1/collections").status_code == 401
        assert client.get("/v1/collections", headers={"x-api-key": "k" * 20}).status_code == 503


def test_u19_every_answer_of_a_service_that_stops_is_the_last_of_its_connection(
    make_settings: Callable[..., Settings], network_gate: threading.Event
) -> None:
    with Stopped(make_settings(), network_gate) as service:
        for path in ("/v1/model", "/docs", "/nothing"):
            assert httpx.get(f"{service.url}{path}").headers["connection"] == "close"
        network_gate.set()
        service.asking.join(30)
        assert isinstance(service.answer, httpx.Response)
        assert (service.answer.status_code, service.answer.headers["connection"]) == (200, "close")
