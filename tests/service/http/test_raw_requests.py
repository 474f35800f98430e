"""What no HTTP client sends, against a service as it is run: lengths, chunks, smuggling, odd versions, and what is told of it all."""

from __future__ import annotations

import base64
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h11
import pytest
from pictures import encoded, picture
from processes import ServiceProcess, service_process
from sockets import all_of, connected

from service.http.protocol import StrictConnection, left_of_chunk

if TYPE_CHECKING:
    from backbone import Artifact

KEY = "the-key-that-nobody-may-see-0123456789"
WRONG_KEY = "another-key-that-nobody-may-see"
BODY_BYTES = 1_000_000
GOOD = encoded(picture())
NAMED = f"Host: x\r\nX-API-Key: {KEY}\r\n".encode()
EMBED = b"POST /v1/embed HTTP/1.1\r\nContent-Type: image/png\r\n" + NAMED
PUT = b"PUT /v1/collections/c/points/p HTTP/1.1\r\nContent-Type: image/png\r\n" + NAMED
MODEL = b"GET /v1/model HTTP/1.1\r\n" + NAMED
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
CLOSE = b"Connection: close\r\n\r\n"


@dataclass
class Served:
    """A service process, and raw requests to it."""

    service: ServiceProcess
    paths: list[str]  # of this machine, which it may tell nobody

    def send(self, data: bytes, hang_up: bool = False) -> bytes:
        """Send, and return all that comes until the service closes the connection; `hang_up` ends our half after sending."""

        def sending() -> None:
            try:
                connection.sendall(data)
                if hang_up:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:
                return  # it has closed already, which is for the test to see

        with connected(self.service.port) as connection:
            sender = threading.Thread(target=sending)
            sender.start()
            answer = all_of(connection)
            sender.join()
        return answer

    def get(self, path: str) -> bytes:
        return self.send(f"GET {path} HTTP/1.1\r\n".encode() + NAMED + CLOSE)


@pytest.fixture(scope="module")
def served(tiny_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("served")
    settings: dict[str, object] = {"api_key": KEY, "runtime": "openvino", "precision": "fp32"}
    settings |= {"max_body_bytes": BODY_BYTES, "keep_alive_s": 1, "body_timeout_s": 1.5}
    with service_process(tiny_artifact.path, root / "data", root / "log", **settings) as service:
        yield Served(service, [str(root), str(tiny_artifact.path), str(Path(sys.prefix))])


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def headers(answer: bytes) -> dict[str, str]:
    head = answer.partition(b"\r\n\r\n")[0].decode().lower()
    return dict(line.split(": ", 1) for line in head.splitlines()[1:])


def problem(answer: bytes) -> dict[str, object]:
    found: dict[str, object] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found


def test_s25_a_body_that_announces_too_much_is_413_before_it_is_read(served: Served) -> None:
    for announced in (BODY_BYTES + 1, 10**18):
        answer = served.send(EMBED + f"Content-Length: {announced}\r\n\r\nx".encode())  # and no more comes
        assert (status(answer), problem(answer)["code"]) == (413, "body_too_large")
    answer = served.send(
        EMBED + f"Connection: close\r\nContent-Length: {BODY_BYTES}\r\n\r\n".encode() + b"x" * BODY_BYTES
    )
    assert status(answer) == 415


@pytest.mark.parametrize("kind", ["image/png", "application/json", "multipart/form-data; boundary=b"])
def test_s26_a_body_without_a_length_ends_at_the_limit(served: Served, kind: str) -> None:
    head = EMBED.replace(b"image/png", kind.encode()) + CHUNKED
    if kind.startswith("multipart"):
        begun = b'--b\r\nContent-Disposition: form-data; name="files"; filename="f"\r\n\r\n'
        head += f"{len(begun):x}\r\n".encode() + begun + b"\r\n"
    part = b"10000\r\n" + b"-" * 0x10000 + b"\r\n"
    answer = served.send(head + part * (BODY_BYTES // 0x10000 + 1) + b"10\r\n")  # endless: the last chunk does not come
    assert (status(answer), problem(answer)["code"]) == (413, "body_too_large")
    held = re.search(rb"(?m)^dinodex_request_memory_bytes (\S+)", served.get("/metrics"))
    assert held is not None
    assert float(held[1]) == 0


SMALL = b"1\r\nx\r\n"


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        (b"zz\r\nxx\r\n0\r\n\r\n", 400),
        (b"-2\r\nxx\r\n0\r\n\r\n", 400),
        (b"2\r\nxxx\r\n0\r\n\r\n", 400),
        (b"8" + b"0" * 40 + b"\r\nxx\r\n", 400),
        (b"8000000000000000\r\nxx\r\n", 413),
        (b"2;" + b"a" * 100_000, 400),
        (SMALL * 1_000 + b"0\r\n\r\n", 415),
        (SMALL * 3_000_000 + b"0\r\n\r\n", 400),
        ((b"41\r\n" + b"x" * 65 + b"\r\n") * 10_000 + b"0\r\n\r\n", 415),
    ],
    ids=[
        "no number",
        "negative",
        "too long",
        "44 digits",
        "2^63",
        "extension",
        "1,000 small",
        "3 million small",
        "many",
    ],
)
def test_s27_chunks_that_harm_end_the_connection_and_cost_little(served: Served, chunks: bytes, expected: int) -> None:
    before = served.service.cpu_s()
    head = EMBED + b"Connection: close\r\n" + CHUNKED
    assert status(served.send(head + chunks)) == expected
    assert served.service.cpu_s() - before < 1


def chunk(size: int, data: bytes = b"") -> bytes:
    """Return the header of a chunk, and what comes of it: all, or less."""
    return f"{size:x}\r\n".encode() + data + (b"\r\n" if len(data) == size else b"")


@pytest.mark.parametrize("before", [0, 1, 600_000])
def test_s27_a_chunk_may_be_as_large_as_what_is_left_of_the_body_and_no_byte_larger(
    served: Served, before: int
) -> None:
    head = EMBED + b"Connection: close\r\n" + CHUNKED + (chunk(before, b"x" * before) if before else b"")
    left = BODY_BYTES - before
    assert status(served.send(head + chunk(left, b"x" * left) + b"0\r\n\r\n")) == 415
    assert status(served.send(head + chunk(left, b"x" * left) + chunk(1))) == 413
    assert status(served.send(head + chunk(left + 1))) == 413
    assert status(served.send(head + chunk(left + 1, b"x" * left))) == 413


PUT_C = b"PUT /v1/collections/c HTTP/1.1\r\nContent-Type: application/json\r\n" + NAMED
OPENAI = b"POST /v1/embeddings HTTP/1.1\r\nContent-Type: application/json\r\n" + NAMED
FORM = EMBED.replace(b"image/png", b"multipart/form-data; boundary=b")


@pytest.mark.parametrize(
    ("head", "later"),  # a route that reads no body has answered before a later chunk comes
    [(MODEL, False), *((head, later) for head in (EMBED, FORM, PUT_C, OPENAI) for later in (False, True))],
    ids=lambda value: value.decode().split()[1] if isinstance(value, bytes) else "later" if value else "at once",
)
def test_s27_a_chunk_that_is_announced_too_large_is_refused_as_a_length_is(
    served: Served, head: bytes, later: bool
) -> None:
    begun_cpu_s = served.service.cpu_s()
    counter = re.compile(rb'(?m)^dinodex_refusals_total{code="body_too_large"} (\S+)')
    by_length = served.send(head + f"Content-Length: {2**63}\r\n\r\nx".encode())
    before = counter.search(served.get("/metrics"))
    assert before is not None
    with connected(served.service.port) as connection:
        connection.sendall(head + CHUNKED + (b"" if later else chunk(2**63)))
        if later:
            time.sleep(0.1)
            connection.sendall(chunk(2**63))
        by_chunk = all_of(connection)
    of_length, of_chunk = headers(by_length), headers(by_chunk)
    assert of_chunk.keys() - {"x-model-fingerprint"} == of_length.keys() - {"x-model-fingerprint"}
    assert of_chunk["connection"] == "close"
    assert status(by_length) == status(by_chunk) == 413
    assert {**problem(by_length), "request_id": None} == {**problem(by_chunk), "request_id": None}
    after = counter.search(served.get("/metrics"))
    assert after is not None
    assert float(after[1]) == float(before[1]) + 1
    request_id = of_chunk["x-request-id"]
    [line] = [line for line in served.service.lines() if line.get("request_id") == request_id]
    assert (line["event"], line["status"], line["code"]) == ("request", 413, "body_too_large")
    assert served.service.cpu_s() - begun_cpu_s < 1


def test_s27_without_a_key_a_chunk_too_large_is_401(served: Served) -> None:
    assert status(served.send(EMBED.replace(KEY.encode(), WRONG_KEY.encode()) + CHUNKED + chunk(2**63))) == 401


def test_s27_h11_still_tells_what_is_left_of_a_chunk() -> None:
    connection = StrictConnection(2**16)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: x\r\n" + CHUNKED + b"3\r\nabc\r\n" + chunk(2**63))
    found = []
    while (event := connection.next_event()) is not h11.NEED_DATA:
        found.append(connection.announced_bytes)
        assert isinstance(event, h11.Request | h11.Data)
    assert [*found, connection.announced_bytes] == [0, 3, 3 + 2**63]
    assert left_of_chunk(object()) == 0, "nothing is found where h11 has another reader, and nothing breaks"


def test_s28_a_body_shorter_than_it_says_stores_nothing(served: Served) -> None:
    assert status(served.send(b"PUT /v1/collections/c HTTP/1.1\r\n" + NAMED + CLOSE)) in (200, 201)
    for sent in (0, 1, len(GOOD) - 1):
        answer = served.send(PUT + f"Content-Length: {len(GOOD)}\r\n\r\n".encode() + GOOD[:sent], hang_up=True)
        assert not answer or status(answer) == 400
    assert status(served.get("/v1/collections/c/points/p")) == 404
    # what is beyond the length is another request, and none
    answer = served.send(PUT + f"Content-Length: {len(GOOD)}\r\n\r\n".encode() + GOOD + b"beyond\r\n\r\n")
    assert status(answer) == 200
    assert answer.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 400 " in answer
    assert status(served.get("/v1/collections/c/points/p")) == 200
    assert not [line for line in served.service.lines() if line.get("status") == 500 or line["event"] == "failed"]


@pytest.mark.parametrize(
    ("data", "statuses"),
    {
        "two lengths": (EMBED + b"Content-Length: 4\r\n" + CHUNKED + b"0\r\n\r\n" + MODEL + CLOSE, [400]),
        "two different lengths": (EMBED + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nxxxx", [400]),
        "negative length": (EMBED + b"Content-Length: -1\r\n\r\n", [400]),
        "length of 5,000 digits": (EMBED + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", [400]),
        "another coding": (EMBED + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", [400, 501]),
        "a coding with a tail": (EMBED + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", [400, 501]),
        "HTTP/0.9": (b"GET /v1/model\r\n\r\n", [400]),
        "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400, 401, 404]),
        "an upgrade": (MODEL + b"Connection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n", [200]),
        "a web socket": (MODEL + b"Connection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n", [200]),
        "another host in the path": (MODEL.replace(b" /v1", b" http://x@evil/v1") + CLOSE, [404]),
        "a tunnel": (MODEL.replace(b"GET /v1/model", b"CONNECT evil:443") + CLOSE, [404, 405]),
        "no host": (b"GET /livez HTTP/1.1\r\n\r\n", [400]),
        "a header of a megabyte": (MODEL + b"X-A: " + b"a" * 10**6 + b"\r\n\r\n", [400, 431]),
        "a line without end": (b"GET /" + b"a" * 10**6, [400, 431]),
        "a space before the colon": (MODEL + b"X-A : b\r\n\r\n", [400]),
        "NUL in the path": (MODEL.replace(b"model", b"mo\x00del") + b"\r\n", [400]),
        "no method": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500, [400]),
    }.values(),
    ids=lambda value: "" if isinstance(value, list) else value[:30].decode("latin-1").split("\r")[0],
)
def test_s35_what_is_no_request_is_refused_and_closed_once(served: Served, data: bytes, statuses: list[int]) -> None:
    answer = served.send(data)
    assert status(answer) in statuses, answer[:200]
    answered = re.findall(rb"HTTP/1\.1 \d", answer)
    assert answered[1:] in ([], [b"HTTP/1.1 4"]), "the rest was taken for a request"


SECURITY = {"cache-control", "content-security-policy", "referrer-policy", "x-content-type-options", "x-frame-options"}
UNREADABLE = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\r\n\r\n", 400, "malformed_request"),
    "no host": (b"GET /livez HTTP/1.1\r\n\r\n", 400, "malformed_request"),
    "a body that is none": (EMBED + CHUNKED + b"zz\r\n", 400, "malformed_request"),
    "headers without end": (MODEL + b"X-A: " + b"a" * 2**17, 431, "headers_too_large"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_s35_what_the_web_server_refuses_is_answered_logged_and_counted_as_any_refusal(
    served: Served, case: str
) -> None:
    data, expected, code = UNREADABLE[case]
    counter = re.compile(rf'(?m)^dinodex_refusals_total{{code="{code}"}} (\S+)'.encode())
    before = counter.search(served.get("/metrics"))
    answer = served.send(data)
    found = problem(answer)
    assert found.keys() == {"type", "title", "status", "detail", "code", "request_id"}
    assert (status(answer), found["status"], found["code"]) == (expected, expected, code)
    shown = headers(answer)
    assert shown.keys() >= SECURITY
    assert shown["content-type"] == "application/problem+json"
    assert shown["connection"] == "close"
    assert shown["x-request-id"] == found["request_id"]
    after = counter.search(served.get("/metrics"))
    assert after is not None
    assert float(after[1]) == (0 if before is None else float(before[1])) + 1
    [line] = [line for line in served.service.lines() if line.get("request_id") == found["request_id"]]
    assert (line["event"], line["status"], line["code"]) == ("request", expected, code)
    assert not [line for line in served.service.lines() if "Invalid HTTP" in line["event"]]


@pytest.mark.parametrize("pieces", [1, 3])
def test_s35_headers_of_64_kib_are_taken_and_a_byte_more_is_431(served: Served, pieces: int) -> None:
    for beyond, expected in ((0, 200), (1, 431)):
        start = MODEL + b"Connection: close\r\nX-A: "
        data = start + b"a" * (64 * 1024 + beyond - len(start) - 4) + b"\r\n\r\n"
        with connected(served.service.port) as connection:
            for number in range(pieces):
                connection.sendall(data[len(data) * number // pieces : len(data) * (number + 1) // pieces])
                time.sleep(0.05)
            assert status(all_of(connection)) == expected


def test_s35_a_request_whose_answer_was_not_waited_for_is_no_fault(served: Served) -> None:
    """The route answers without its body, which is none, and there is nobody any more whom it could tell."""
    answer = served.send(MODEL + CHUNKED + b"zz\r\n")
    assert status(answer) == 400
    request_id = problem(answer)["request_id"]
    deadline = time.monotonic() + 10
    while not (lines := [line for line in served.service.lines() if line.get("request_id") == request_id]):
        assert time.monotonic() < deadline
    assert [line["event"] for line in lines] == ["request"]


@pytest.mark.parametrize("given", [b"a\x01b", b"a\r\n b: c", b"a\tb", b"\xff\xfe", b"a b", b"x" * 129, b'{"a":1}'])
def test_s35_a_request_id_that_could_forge_a_log_line_is_replaced(served: Served, given: bytes) -> None:
    answer = served.send(MODEL + b"X-Request-Id: " + given + b"\r\n" + CLOSE)
    assert status(answer) == 200
    found = re.search(rb"(?i)x-request-id: ([0-9a-f]{32})\r\n", answer)
    assert found, answer[:300]
    assert any(line.get("request_id") == found[1].decode() for line in served.service.lines())


def test_s35_a_broken_rest_after_the_answer_ends_the_connection_quietly(served: Served) -> None:
    """The answer comes before the body is read, and then the body is none."""
    refused = EMBED.replace(KEY.encode(), WRONG_KEY.encode()) + CHUNKED
    with connected(served.service.port) as connection:
        connection.sendall(refused)
        answer = connection.recv(65536)
        assert status(answer) == 401
        time.sleep(0.1)
        connection.sendall(b"zz\r\nno chunk\r\n")
        all_of(connection)
    assert not [line for line in served.service.lines() if "exception" in line or line["level"] == "error"]


WRONG_KEYS = [b"", b"X-API-Key: \r\n", b"X-API-Key: " + b"x" * 60_000 + b"\r\n"]
WRONG_KEYS += [
    f"{name}{key}\r\n".encode()
    for name in ("X-API-Key: ", "Authorization: Bearer ")
    for key in (WRONG_KEY, "schlüssel-ключ-鍵")
]


def test_s36_on_every_route_a_wrong_key_is_401_before_any_of_the_body_is_sent(served: Served) -> None:
    paths = json.loads(served.get("/openapi.json").partition(b"\r\n\r\n")[2])["paths"]
    routes = [(method.upper(), path) for path, item in paths.items() for method in item]
    asked = [(*route, key) for route in routes if route[1] not in ("/livez", "/readyz") for key in WRONG_KEYS]
    assert len(asked) > 200
    for method, path, key in asked:
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {BODY_BYTES}\r\n"
        )
        with connected(served.service.port) as connection:
            connection.sendall(head.encode() + key + b"\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 401 "), (method, path, key[:50])


def test_s36_a_key_with_nul_is_no_request(served: Served) -> None:
    assert status(served.send(b"GET /v1/model HTTP/1.1\r\nHost: x\r\nX-API-Key: a\x00b\r\n" + CLOSE)) == 400


def tell(send: Callable[[bytes], bytes]) -> bytes:
    """Make as many kinds of errors as there are; return all that was answered."""
    marked = b"\x89PNG\r\n\x1a\n" + b"MARK-OF-AN-IMAGE" * 100
    wrong = MODEL.replace(KEY.encode(), WRONG_KEY.encode())
    body = json.dumps({"images": [base64.b64encode(marked).decode(), "!"]}).encode()
    vector = b'{"vector": [1, 2, "MARK-OF-A-VALUE"]}'
    as_json = b"Content-Type: application/json\r\n" + NAMED
    requests = [
        MODEL + CLOSE,
        wrong + CLOSE,
        wrong.replace(b"/v1/model", b"/v1/model?api_key=" + KEY.encode()) + CLOSE,
        MODEL.replace(b"/v1/model", b"/openapi.json") + CLOSE,
        MODEL.replace(b"/v1/model", b"/metrics") + CLOSE,
        MODEL.replace(b"/v1/model", b"/v1/collections") + CLOSE,
        MODEL.replace(b"/v1/model", b"/v1/nothing/../../etc/passwd") + CLOSE,
        MODEL.replace(b"/v1/model", b"/v1/collections/none/points/%ff") + CLOSE,
        EMBED + b"Connection: close\r\n" + f"Content-Length: {len(marked)}\r\n\r\n".encode() + marked,
        b"POST /v1/embed HTTP/1.1\r\n"
        + as_json
        + b"Connection: close\r\n"
        + f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body,
        b"POST /v1/embeddings HTTP/1.1\r\n" + as_json + b"Connection: close\r\nContent-Length: 1\r\n\r\n{",
        b"POST /v1/collections/c/query HTTP/1.1\r\n"
        + as_json
        + b"Connection: close\r\n"
        + f"Content-Length: {len(vector)}\r\n\r\n".encode()
        + vector,
    ]
    return b"".join(map(send, requests))


def test_s39_no_key_path_traceback_or_image_is_told_to_anybody(served: Served) -> None:
    answered = tell(served.send).decode("latin-1")
    assert len(re.findall("HTTP/1.1 4", answered)) >= 7
    written = served.service.log.read_text()
    process_paths = [path for path in (*served.paths, "site-packages", ".py") if path != "/usr"]
    for told, where in ((answered, "an answer"), (written, "the log")):
        for secret in (
            KEY,
            WRONG_KEY,
            "MARK-OF",
            base64.b64encode(b"MARK-OF-AN-I")[:12].decode(),
            "Traceback",
            'File "',
        ):
            assert secret not in told, f"{secret} in {where}"
        for path in process_paths:
            assert path not in told, f"{path} in {where}"
    assert all(isinstance(line, dict) and "event" in line for line in served.service.lines())


@pytest.mark.parametrize("address", [b"http://x", b"HTTPS://other.example:8443", b"http://[::1]:80", b"http://%78"])
def test_u19_a_target_with_scheme_and_host_is_that_path(served: Served, address: bytes) -> None:
    assert status(served.send(MODEL.replace(b" /v1", b" " + address + b"/v1") + CLOSE)) == 200
    absent = served.send(MODEL.replace(b" /v1/model", b" " + address + b"/v1/model?model=none") + CLOSE)
    assert (status(absent), problem(absent)["code"]) == (404, "model_not_found")
    unnamed = MODEL.replace(KEY.encode(), WRONG_KEY.encode())
    refused = served.send(unnamed.replace(b" /v1", b" " + address + b"/v1") + CLOSE)
    assert status(refused) == 401
    put = PUT_C.replace(b" /v1", b" " + address + b"/v1") + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}"
    assert status(served.send(put)) in (200, 201)
    raw = MODEL.replace(b"/v1/model", address + b"/v1/collections/c/points/..%2Fx")
    assert problem(served.send(raw + CLOSE))["code"] == "point_missing"
    assert status(served.send(b"GET " + address + b"/livez HTTP/1.1\r\nHost: x\r\n" + CLOSE)) == 200
    [line] = [line for line in served.service.lines() if line.get("request_id") == headers(refused)["x-request-id"]]
    assert line["path"] == "/v1/model"


@pytest.mark.parametrize(
    "target", [b"http://x", b"http://x?a=b", b"http:///v1/model", b"http://?/v1/model", b"ftp://x/v1/model", b"*"]
)
def test_u19_a_target_without_a_path_of_ours_is_404(served: Served, target: bytes) -> None:
    for method in (b"GET", b"OPTIONS"):
        data = MODEL.replace(b"GET /v1/model", method + b" " + target)
        assert status(served.send(data + CLOSE)) in (404, 405)
