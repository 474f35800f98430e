"""How much memory requests may hold: reckoned from above, both sides of the limit, given back on every path."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from service.api.requests import EmbedBody, PutPointsBody, QueryBatchBody, QueryBody, RequestModel
from service.http.bodies import parse_json
from service.http.body_limits import (
    BYTES_PER_KEY,
    BYTES_PER_OBJECT,
    BYTES_PER_VALUE,
    COPIES_OF_FORM,
    COPIES_PARSED,
    COPIES_TAKEN,
    BodyLimits,
)
from service.http.request_memory import RequestMemory
from service.http.request_state import request_state

if TYPE_CHECKING:
    from starlette.testclient import TestClient

SIZE = 300_000
TEXTS: dict[str, tuple[type[RequestModel], str]] = {
    "zeros": (QueryBody, '{"vector":[' + "0," * (SIZE // 2) + "0]}"),
    "numbers": (QueryBody, '{"vector":[' + "0.1234567890123," * (SIZE // 16) + "0]}"),
    "objects": (QueryBody, '{"vector":[' + "{}," * (SIZE // 3) + "0]}"),
    "lists": (QueryBody, '{"vector":[' + "[0]," * (SIZE // 4) + "0]}"),
    "nested": (QueryBody, '{"vector":[' + "[[[[[[0]]]]]]," * (SIZE // 14) + "0]}"),
    "empty strings": (EmbedBody, '{"images":[' + '"",' * (SIZE // 3) + '""]}'),
    "unknown keys": (QueryBody, "{" + ",".join(f'"{key}":0' for key in range(SIZE // 10)) + "}"),
    "unknown keys of an item": (
        QueryBatchBody,
        '{"queries":[{' + ",".join(f'"{key}":0' for key in range(SIZE // 10)) + "}]}",
    ),
    "wrong items": (QueryBatchBody, '{"queries":[' + "{}," * (SIZE // 3) + "{}]}"),
    "good items": (PutPointsBody, '{"points":[' + '{"id":"a","vector":[0]},' * (SIZE // 24) + '{"id":"b"}]}'),
    "smallest items": (PutPointsBody, '{"points":[' + '{"id":"a"},' * (SIZE // 11) + '{"id":"b"}]}'),
    "smallest queries": (QueryBatchBody, '{"queries":[' + '{"id":""},' * (SIZE // 10) + '{"id":"b"}]}'),
    "payload": (PutPointsBody, '{"points":[{"id":"a","payload":{"a":[' + "{}," * (SIZE // 3) + "0]}}]}"),
    "images": (EmbedBody, json.dumps({"images": ["A" * 10_000] * (SIZE // 10_000)})),
}


WRONG = [
    case for case in TEXTS if case not in ("good items", "smallest items", "smallest queries", "payload", "images")
]


def reckoned(text: str) -> int:
    values, keys, objects = text.count(",") + text.count("["), text.count(":"), text.count("{")
    of_values = BYTES_PER_VALUE * values + BYTES_PER_KEY * keys + BYTES_PER_OBJECT * objects
    return COPIES_PARSED * len(text) + of_values


@pytest.mark.parametrize("case", TEXTS)
def test_s21_parsing_takes_no_more_than_was_reckoned(case: str) -> None:
    """Measured in Python's allocator; a megabyte of wrong items once became gigabytes of errors."""
    model, text = TEXTS[case]
    body = text.encode()
    with suppress(RequestValidationError):
        asyncio.run(parse_json(b'{"id":"warm"}', model))
    tracemalloc.start()
    try:
        with suppress(RequestValidationError):
            asyncio.run(parse_json(body, model))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < reckoned(text)


@pytest.mark.parametrize("case", WRONG)
def test_s21_of_many_wrong_values_a_few_are_named(client: TestClient, case: str) -> None:
    client.put("/v1/collections/c").raise_for_status()
    route = "query/batch" if TEXTS[case][0] is QueryBatchBody else "query"
    answer = client.post(
        f"/v1/collections/c/{route}", content=TEXTS[case][1], headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422, answer.text[:300]
    assert len(answer.json().get("errors", [])) <= 9
    assert len(answer.content) < 10_000


class Asked:
    """One request to the middleware around an application that reads all of the body and then waits."""

    def __init__(self, middleware: Callable[..., Any], body: bytes, content_type: str, declare: bool) -> None:
        self._middleware = middleware
        self._parts = [body[start : start + 1000] for start in range(0, len(body), 1000)]
        self.left = len(self._parts)
        headers = [(b"content-type", content_type.encode())]
        headers += [(b"content-length", str(len(body)).encode())] if declare else []
        self._scope: Scope = {"type": "http", "path": "/", "method": "POST", "headers": headers, "state": {}}
        self.sent: list[Message] = []

    async def __call__(self) -> int:
        """Return the status."""
        with suppress(Exception):  # what the framework around the application would answer
            await self._middleware(self._scope, self._receive, self._send)
        return int(self.sent[0]["status"]) if self.sent else 0

    async def _receive(self) -> Message:
        self.left -= 1
        body = self._parts[len(self._parts) - 1 - self.left]
        return {"type": "http.request", "body": body, "more_body": self.left > 0}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)


@pytest.mark.parametrize("content_type", ["image/png", "application/x-npy", "application/json", "multipart/form-data"])
@pytest.mark.parametrize("declare", [True, False], ids=["declared", "undeclared"])
def test_s26_a_body_fits_or_does_not_and_what_it_held_is_free_again(content_type: str, declare: bool) -> None:
    copies = {"application/json": COPIES_PARSED, "multipart/form-data": COPIES_OF_FORM}.get(content_type, COPIES_TAKEN)
    memory = RequestMemory(copies * 10_000)
    gate = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        await gate.wait()
        await PlainTextResponse("read")(scope, receive, send)

    middleware = BodyLimits(application, memory, 10**6, timeout_s=30)

    def asked(size: int) -> Asked:
        return Asked(middleware, b"x" * size, content_type, declare)

    async def run() -> None:
        too_much = asked(10_001)
        await too_much()
        assert too_much.left == (11 if declare else 0)  # a declared one is refused before its first byte is read
        assert too_much.sent[0]["status"] == 413 if declare else not too_much.sent
        assert memory.held_bytes == 0

        first = asyncio.create_task(asked(9_000)())
        while memory.held_bytes < copies * 9_000:
            await asyncio.sleep(0)
        second = asked(1_001)
        await second()
        assert second.left == (2 if declare else 0)
        assert memory.held_bytes == copies * 9_000
        if declare:
            assert second.sent[0]["status"] == 503
            assert dict(second.sent[0]["headers"])[b"retry-after"] == b"1"
            assert json.loads(second.sent[1]["body"])["code"] == "saturated"
        third = asyncio.create_task(asked(1_000)())
        while memory.held_bytes < memory.limit_bytes:
            await asyncio.sleep(0)
        gate.set()
        assert await asyncio.gather(first, third) == [200, 200]
        assert memory.held_bytes == 0

    asyncio.run(asyncio.wait_for(run(), 30))


def test_of_several_limits_that_a_request_passes_the_first_one_answers() -> None:
    memory = RequestMemory(100)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    async def answered(announced: bool, body: bytes, wait_s: float) -> int | None:
        """Return the status with which a request ends while its body is received, or before."""
        sent: list[Message] = []
        scope: Scope = {"type": "http", "path": "/", "method": "POST", "headers": [(b"content-type", b"image/png")]}

        async def receive() -> Message:
            request_state(scope).announced_too_large = announced
            await asyncio.sleep(wait_s)
            return {"type": "http.request", "body": body, "more_body": True}

        async def send(message: Message) -> None:
            sent.append(message)

        try:
            await BodyLimits(application, memory, 10**6, timeout_s=0.05)(scope, receive, send)
        except HTTPException as refusal:
            return refusal.status_code
        return sent[0]["status"] if sent else None

    async def run() -> None:
        small, large = b"x" * 10, b"x" * 51
        memory.held_bytes = 50  # another request's
        assert await answered(False, small, 0) is None
        assert await answered(False, b"x" * 26, 0) == 503
        assert await answered(False, large, 0) == 413
        assert await answered(True, b"x" * 26, 0) == 413
        assert await answered(True, large, 30) == 408
        assert memory.held_bytes == 50

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_body_that_has_announced_too_much_is_answered_413_before_memory_is_asked() -> None:
    memory = RequestMemory(100)
    memory.held_bytes = 100  # so that it would be 503
    sent: list[Message] = []
    headers = [(b"content-type", b"image/png"), (b"content-length", b"1")]
    scope: Scope = {"type": "http", "path": "/", "method": "POST", "headers": headers}
    request_state(scope).announced_too_large = True

    async def receive() -> Message:
        raise AssertionError("nothing of its body is read")

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(BodyLimits(PlainTextResponse("read"), memory, 10**6, timeout_s=30)(scope, receive, send))
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]


def test_s26_values_of_json_count_before_they_are_parsed(make_client: Callable[..., TestClient]) -> None:
    body = TEXTS["objects"][1].encode()
    url, headers = "/v1/collections/c/query", {"content-type": "application/json"}
    need = reckoned(TEXTS["objects"][1])
    for most, status in ((need, 422), (need - 1, 413)):
        client = make_client(request_memory_bytes=most, max_body_bytes=len(body))
        client.put("/v1/collections/c")
        answers = [
            client.post(url, content=content, headers=headers)
            for content in (body, iter([body[:100_000], body[100_000:]]))
        ]
        for answer in answers:
            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/problem+json"
        client.__exit__(None, None, None)


def test_s26_values_in_the_json_part_of_a_form_count_too(make_client: Callable[..., TestClient]) -> None:
    text = '{"points":[{"id":"a","vector":[' + "0," * 30_000 + "0]}]}"
    body = b'--b\r\nContent-Disposition: form-data; name="points"\r\n\r\n' + text.encode() + b"\r\n--b--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=b"}
    need = COPIES_OF_FORM * len(body) + reckoned(text) - COPIES_PARSED * len(text)
    for most, status in ((need, 422), (need - 1, 413)):
        client = make_client(request_memory_bytes=most, max_body_bytes=len(body))
        client.put("/v1/collections/c")
        answer = client.put("/v1/collections/c/points", content=body, headers=headers)
        assert answer.status_code == status, answer.text
        client.__exit__(None, None, None)


def test_an_answer_larger_than_memory_is_not_begun(make_client: Callable[..., TestClient]) -> None:
    client = make_client(request_memory_bytes=4_000_000, max_body_bytes=1_000_000)
    client.put("/v1/collections/c").raise_for_status()
    for queries, status in ((2, 200), (3, 413)):
        body = {"queries": [{"vector": [1.0] * 32, "limit": 1000}] * queries}
        assert client.post("/v1/collections/c/query/batch", json=body).status_code == status
    assert client.get("/livez").status_code == 200


def test_memory_must_suffice_for_the_largest_body(make_client: Callable[..., TestClient]) -> None:
    from service.errors import SettingsInvalid

    make_client(request_memory_bytes=4_000_000, max_body_bytes=1_000_000)
    with pytest.raises(SettingsInvalid, match="request_memory_bytes"):
        make_client(request_memory_bytes=3_999_999, max_body_bytes=1_000_000)
