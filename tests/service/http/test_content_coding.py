"""Bodies in gzip: inflated within the limits of any body, and every other coding refused by name."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message

from service.http.content_coding import Inflation

if TYPE_CHECKING:
    from starlette.testclient import TestClient

MiB = 2**20
PNG = {"Content-Type": "image/png"}
GZIP = {"Content-Encoding": "gzip"}


def inflated(*messages: bytes) -> bytes:
    """Return what comes of a body that arrives in these messages."""

    async def read() -> bytes:
        waiting = list(messages)

        async def receive() -> Message:
            return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

        inflation, body = Inflation(receive), b""
        while (message := await inflation.receive())["more_body"] or message["body"]:
            body += message["body"]
        return body

    return asyncio.run(read())


@pytest.mark.parametrize("size", [0, 1, 1000, 64 * 1024, 64 * 1024 + 1, 3 * MiB])
@pytest.mark.parametrize("cut", [1, 1000, 10**9])
def test_u20_a_stream_is_the_same_however_it_is_cut(size: int, cut: int) -> None:
    data = (b"\0" * 5000 + bytes(range(256))) * (size // 5256 + 1)
    stream = gzip.compress(data[:size])
    assert inflated(*(stream[start : start + cut] for start in range(0, len(stream), cut))) == data[:size]


def test_u20_members_one_after_another_are_one_stream() -> None:
    stream = b"".join(gzip.compress(bytes([n]) * 1000) for n in range(200))
    assert inflated(stream) == b"".join(bytes([n]) * 1000 for n in range(200))


WRONG = {
    "cut off": (gzip.compress(b"x" * 1000)[:-1], "too early"),
    "cut off in its header": (gzip.compress(b"x")[:5], "too early"),
    "no gzip": (b"{}", "not gzip"),
    "zlib's format": (zlib.compress(b"x"), "not gzip"),
    "a wrong checksum": (gzip.compress(b"x" * 1000)[:-8] + b"\0" * 8, "damaged"),
    "something behind it": (gzip.compress(b"x") + b"behind", "not gzip"),
    "members of nothing": (gzip.compress(b"") * 100_000, "almost nothing"),
    "blocks of nothing": (gzip.compress(b"")[:10] + b"\0\0\0\xff\xff" * 500_000, "almost nothing"),
}


@pytest.mark.parametrize("case", WRONG)
def test_u20_what_is_no_gzip_or_does_not_end_is_400(client: TestClient, case: str) -> None:
    body, reason = WRONG[case]
    begun = time.process_time()
    with pytest.raises(HTTPException, match=reason) as refusal:
        inflated(body)
    assert refusal.value.status_code == 400
    assert time.process_time() - begun < 0.5
    for path, kind in (
        ("/v1/embed", "image/png"),
        ("/v1/embed", "application/json"),
        ("/v1/embeddings", "application/json"),
    ):
        answer = client.post(path, content=body, headers={**GZIP, "Content-Type": kind})
        problem = answer.json().get("error", answer.json())
        assert (answer.status_code, problem["code"]) == (400, "malformed_request")
        assert reason in answer.text


def test_u20_every_kind_of_body_may_come_in_gzip(client: TestClient, png: Callable[..., bytes]) -> None:
    image = png()

    def ask(method: str, path: str, content: bytes, kind: str, coding: str) -> Any:  # noqa: ANN401
        answer = client.request(
            method, path, content=content, headers={"Content-Type": kind, "Content-Encoding": coding}
        )
        assert answer.is_success, answer.text
        return answer.json()

    for coding, encode in (
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", gzip.compress),
        ("identity", bytes),
    ):
        ask("PUT", f"/v1/collections/{coding}", encode(b'{"keep": "none"}'), "application/json", coding)
        points = f"/v1/collections/{coding}/points"
        assert ask("PUT", f"{points}/p", encode(image), "image/png", coding)["status"] == "created"
        assert ask("PATCH", f"{points}/p", encode(b'{"label": "cat"}'), "application/json", coding)["label"] == "cat"
        assert ask("POST", f"{points}/count", encode(b"{}"), "application/json", coding) == {"count": 1}
        query = f"/v1/collections/{coding}/query"
        assert ask("POST", query, encode(image), "image/png", coding)["result"][0]["id"] == "p"
        form = b'--b\r\nContent-Disposition: form-data; name="files"; filename="f"\r\n\r\n' + image + b"\r\n--b--\r\n"
        assert (
            "embedding" in ask("POST", "/v1/embed", encode(form), "multipart/form-data; boundary=b", coding)["data"][0]
        )


@pytest.mark.parametrize("coding", ["br", "zstd", "deflate", "gzip, gzip", "gzip, br", "aes128gcm", "gzip;q=1"])
def test_u20_another_coding_is_415_and_says_which_is_taken(client: TestClient, coding: str) -> None:
    for path in ("/v1/embed", "/v1/embeddings", "/v1/collections"):
        answer = client.post(path, content=b"x", headers={**PNG, "Content-Encoding": coding})
        problem = answer.json().get("error", answer.json())
        assert (answer.status_code, problem["code"]) == (415, "unsupported_content_coding")
        assert coding in answer.text
        assert answer.headers["accept-encoding"] == "gzip"


def test_u20_a_request_without_a_body_has_no_coding(client: TestClient) -> None:
    assert client.get("/v1/model", headers={"Content-Encoding": "br"}).status_code == 200
    assert client.put("/v1/collections/c", headers=GZIP).status_code == 201


def test_u20_a_type_that_a_route_does_not_take_is_415_in_gzip_too(client: TestClient) -> None:
    answer = client.put(
        "/v1/collections/c", content=gzip.compress(b"{}"), headers={**GZIP, "Content-Type": "text/plain"}
    )
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_body")


def test_u20_the_limit_of_a_body_is_that_of_what_comes_out(make_client: Callable[..., TestClient]) -> None:
    client = make_client(max_body_bytes=MiB, max_image_bytes=MiB)
    text = json.dumps({"images": ["QUJD"]}).encode()
    for size, status in ((MiB, 200), (MiB + 1, 413)):
        body = gzip.compress(text.ljust(size))
        answer = client.post("/v1/embed", content=body, headers={**GZIP, "Content-Type": "application/json"})
        assert answer.status_code == status
    assert answer.json()["code"] == "body_too_large"
    for coding in ("gzip", "br"):  # a length that is declared too large is told first, as without a coding
        answer = client.post("/v1/embed", content=b"x" * (MiB + 1), headers={**PNG, "Content-Encoding": coding})
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def bomb() -> Iterator[bytes]:
    """Yield the parts of a gzip stream of some megabytes that would become ten gigabytes."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = b"\0" * 16 * MiB
    for _ in range(640):
        yield deflate.compress(block)


def test_u20_a_bomb_is_413_in_little_time_and_memory(make_client: Callable[..., TestClient]) -> None:
    client = make_client()
    body = b"".join(part for _, part in zip(range(40), bomb(), strict=False))  # of it 640 MB are more than is ever made
    for kind in ("image/png", "application/json", "multipart/form-data; boundary=b"):
        begun = time.process_time()
        answer = client.post("/v1/embed", content=body, headers={**GZIP, "Content-Type": kind})
        assert answer.status_code in (413, 400), answer.text  # a form of zeros is none
        assert time.process_time() - begun < 2
    held = next(
        line for line in client.get("/metrics").text.splitlines() if line.startswith("dinodex_request_memory_bytes ")
    )
    assert float(held.split()[1]) == 0


def test_u20_a_bomb_is_inflated_in_pieces_that_others_get_between() -> None:
    body = gzip.compress(b"\0" * 64 * MiB)

    async def read() -> tuple[float, int]:
        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        inflation, longest, largest = Inflation(receive), 0.0, 0
        for _ in range(500):
            begun = time.thread_time()
            message = await inflation.receive()
            longest, largest = max(longest, time.thread_time() - begun), max(largest, len(message["body"]))
        return longest, largest

    tracemalloc.start()
    longest_s, largest = asyncio.run(read())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest <= 64 * 1024
    assert peak < MiB
    assert longest_s < 0.02
