"""Callers that dawdle, on real sockets against the web server as it is run."""

from __future__ import annotations

import json
import selectors
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
import sockets
from sockets import ENOUGH_S, all_of, connected, listening_service, probe_s

if TYPE_CHECKING:
    from backbone import Artifact

HEADER_S, BODY_S, WRITE_S = 0.4, 0.8, 0.5
EMBED = b"POST /v1/embed HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def port(tiny_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A service with short deadlines, for all tests of this module, as its callers would share it; its port."""
    from service.settings import load_settings

    settings = load_settings(
        artifact=tiny_artifact.path,
        data=tmp_path_factory.mktemp("protocol") / "data",
        allow_anonymous=True,
        runtime="torch",
        precision="fp32",
        threads=1,
        decode_workers=1,
        header_timeout_s=HEADER_S,
        body_timeout_s=BODY_S,
        write_timeout_s=WRITE_S,
        keep_alive_s=30,
        max_body_bytes=10**6,
    )
    with listening_service(settings) as found:
        yield found


def drip(connection: socket.socket, data: bytes, pause_s: float) -> None:
    """Send byte by byte for as long as the service listens."""
    for byte in data:
        try:
            connection.sendall(bytes([byte]))
        except OSError:
            return
        time.sleep(pause_s)


def alive(port: int) -> bool:
    return sockets.alive(port, HEADER_S)


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /livez HTTP/1.1\r\nHost: x\r\n"])
def test_s29_a_connection_without_whole_headers_is_cut(port: int, sent: bytes) -> None:
    begun = time.monotonic()
    with connected(port) as connection:
        connection.sendall(sent)
        assert alive(port)
        assert all_of(connection) == b""
    assert time.monotonic() - begun >= HEADER_S * 0.9


def test_s29_bytes_that_drip_do_not_prolong_the_time_for_headers(port: int) -> None:
    begun = time.monotonic()
    with connected(port) as connection:
        drip(connection, b"GET /livez HTTP/1.1\r\nX-Long: " + b"x" * 400, 0.05)
        assert all_of(connection) == b""
    assert time.monotonic() - begun < 5 * HEADER_S + 400 * 0.05 / 4, "it was cut long before all was sent"


def test_s29_many_idle_connections_leave_the_service_answering(port: int) -> None:
    idle = [socket.create_connection(("127.0.0.1", port), timeout=ENOUGH_S) for _ in range(200)]
    try:
        assert alive(port)
        for connection in idle:
            assert all_of(connection) == b""
    finally:
        for connection in idle:
            connection.close()


def test_s29_500_connections_without_headers_are_each_cut_and_others_are_answered_meanwhile(port: int) -> None:
    opened: dict[socket.socket, float] = {}
    took: list[float] = []
    with selectors.DefaultSelector() as selector, ExitStack() as stack, connected(port) as other:
        for number in range(500):
            connection = stack.enter_context(connected(port))
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n" if number % 2 else b"")
            opened[connection] = time.monotonic()
            selector.register(connection, selectors.EVENT_READ, connection)
        while opened:
            took.append(probe_s(other))
            for key, _ in selector.select(0.002):
                assert all_of(key.data) == b""
                selector.unregister(key.data)
                assert HEADER_S * 0.9 <= time.monotonic() - opened.pop(key.data) < HEADER_S + 1
    assert statistics.quantiles(took, n=100)[98] < 0.05


def test_s30_a_body_that_drips_is_answered_408(port: int) -> None:
    begun = time.monotonic()
    with connected(port) as connection:
        connection.sendall(EMBED + b"Content-Length: 100000\r\n\r\n")
        sender = threading.Thread(target=drip, args=(connection, b"x" * 400, 0.05))
        sender.start()
        answer = all_of(connection)
        took_s = time.monotonic() - begun
        sender.join()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in head.lower()
    assert json.loads(body)["code"] == "body_too_slow"
    assert took_s >= BODY_S * 0.9
    assert alive(port)


@pytest.mark.parametrize("route", ["PUT /v1/collections/c", "POST /v1/embeddings", "POST /v1/embed"])
def test_s30_every_kind_of_body_has_its_time(port: int, route: str) -> None:
    with connected(port) as connection:
        connection.sendall(
            f"{route} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{{".encode()
        )
        assert all_of(connection).startswith(b"HTTP/1.1 408 ")


def test_s30_the_rest_of_a_body_that_was_refused_is_not_waited_for(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nx")
        sender = threading.Thread(target=drip, args=(connection, b"x" * 100, 0.05))
        sender.start()
        assert all_of(connection).startswith(b"HTTP/1.1 404 ")
        sender.join()


def test_a_body_in_time_and_the_next_request_on_its_connection_are_answered(port: int) -> None:
    with connected(port) as connection:
        for _ in range(2):
            connection.sendall(EMBED + b"Content-Length: 12\r\n\r\n")
            time.sleep(BODY_S / 4)
            connection.sendall(b"no picture..")
            answer = connection.recv(65536)
            while b"unsupported_image_type" not in answer:
                answer += connection.recv(65536)
            assert b" 415 " in answer
            time.sleep(HEADER_S * 1.5)  # between two requests the connection may rest for keep_alive_s


def test_s31_a_caller_that_does_not_read_is_cut(port: int) -> None:
    with connected(port) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ask = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
        begun = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT012 - some of them are taken, until nothing more is
            while time.monotonic() < begun + ENOUGH_S:
                connection.sendall(ask * 20)
                time.sleep(0.02)
        assert time.monotonic() - begun < ENOUGH_S
    assert alive(port)


def test_s31_a_caller_that_reads_slowly_gets_all_of_its_answer(port: int) -> None:
    with connected(port) as whole:
        whole.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        expected = len(all_of(whole).partition(b"\r\n\r\n")[2])
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(ENOUGH_S)
        slow.connect(("127.0.0.1", port))
        slow.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        got = b""
        while part := slow.recv(16384):
            got += part
            time.sleep(WRITE_S / 8)
    assert len(got.partition(b"\r\n\r\n")[2]) == expected
