"""An image that there is no room for is refused before its body is read; whatever else may be answered goes on to its route."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import httpx
import pytest
from pictures import encoded, picture
from sockets import connected, listening_service

if TYPE_CHECKING:
    from service.settings import Settings

PICTURE = encoded(picture())
IMAGE = {"content-type": "image/png"}
HEAD = b"POST /v1/embed HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(PICTURE)


def answer_with(connection: socket.socket, last: bytes) -> bytes:
    """Return what comes up to `last`."""
    found = b""
    while last not in found:
        part = connection.recv(65536)
        assert part, found
        found += part
    return found


class Full:
    """A service that takes one image at a time, and whose network waits with that until it is told to go on."""

    def __init__(self, url: str, go_on: threading.Event) -> None:
        self.url = url
        self.go_on = go_on
        self.port = int(url.rpartition(":")[2])
        self._first = threading.Thread(target=self._ask)
        self.first_status = 0

    def _ask(self) -> None:
        self.first_status = httpx.post(f"{self.url}/v1/embed", content=PICTURE, headers=IMAGE, timeout=60).status_code

    def __enter__(self) -> Full:
        self.go_on.clear()
        self._first.start()
        end = time.monotonic() + 30
        while "dinodex_queue_images 1.0" not in httpx.get(f"{self.url}/metrics").text:
            assert time.monotonic() < end
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._first.join(60)


@pytest.fixture
def full(make_settings: Callable[..., Settings], network_gate: threading.Event) -> Iterator[Full]:
    settings = make_settings(queue_images=1, max_request_images=1)
    with listening_service(settings) as port, Full(f"http://127.0.0.1:{port}", network_gate) as found:
        yield found


def test_s40_an_image_without_room_is_refused_before_its_body_is_there_and_its_connection_serves_on(full: Full) -> None:
    with connected(full.port) as connection:
        connection.sendall(HEAD)
        answer = answer_with(connection, b'"code":"saturated"')
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in answer.lower()
        connection.sendall(PICTURE + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/1.1 200 " in answer_with(connection, b"\r\n\r\n{")


def test_with_room_again_images_are_embedded(full: Full) -> None:
    assert httpx.post(f"{full.url}/v1/embed", content=PICTURE, headers=IMAGE).status_code == 503
    full.go_on.set()
    full._first.join(60)
    assert full.first_status == 200
    assert httpx.post(f"{full.url}/v1/embed", content=PICTURE, headers=IMAGE, timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("POST", "/v1/embed", {"content-type": "application/json"}, b'{"images":[]}', 422),
        ("POST", "/v1/collections/none/query", {"content-type": "application/json"}, b'{"id":"a"}', 404),
        ("PUT", "/v1/collections/none/points/p", IMAGE, PICTURE, 404),
        ("GET", "/v1/model", {}, b"", 200),
    ],
)
def test_what_needs_no_room_is_answered_by_its_route(
    full: Full, method: str, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    assert httpx.request(method, f"{full.url}{path}", headers=headers, content=body).status_code == status


def test_a_refusal_is_counted_and_logged_as_any_other(full: Full) -> None:
    answer = httpx.post(f"{full.url}/v1/embed", content=PICTURE, headers={**IMAGE, "x-request-id": "mine"})
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "mine"
    assert 'dinodex_refusals_total{code="saturated"} 1.0' in httpx.get(f"{full.url}/metrics").text
