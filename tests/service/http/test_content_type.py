"""What a body is said to be means the same to the route, to the memory that is held for it, and to early refusals."""

from __future__ import annotations

import asyncio

import pytest
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from service.errors import UnsupportedBody
from service.http.body_limits import COPIES_OF_FORM, COPIES_PARSED, COPIES_TAKEN, BodyLimits
from service.http.content_type import IMAGE, JSON, MULTIPART, NPY, declared_kind, json_only, kind_of
from service.http.request_memory import RequestMemory
from service.load_shedding import _holds_image

KINDS = {
    "image/png": IMAGE,
    "IMAGE/JPEG": IMAGE,
    "image/png; q=1": IMAGE,
    " \timage/png \t;q=1": IMAGE,
    "image/svg+xml": IMAGE,
    "image/x+json": IMAGE,
    "application/json": JSON,
    "Application/JSON ; charset=utf-8": JSON,
    "application/problem+json": JSON,
    "application/vnd.api+JSON;v=1": JSON,
    "multipart/form-data; boundary=B": MULTIPART,
    "Multipart/Form-Data;boundary=b": MULTIPART,
    "application/x-npy": NPY,
    "application/X-NPY; version=1": NPY,
    "": None,
    ";image/png": None,
    "image": None,
    "text/plain; image/png": None,
    "text/x+json": None,
    "\xa0image/png": None,
    "application/json\x85": None,
    "application/jsonp": None,
    "application/x-npyz": None,
    "multipart/mixed; boundary=b": None,
}
COPIES = {IMAGE: COPIES_TAKEN, NPY: COPIES_TAKEN, MULTIPART: COPIES_OF_FORM, JSON: COPIES_PARSED, None: COPIES_PARSED}


def scope_of(content_type: str) -> Scope:
    headers = [(b"content-type", content_type.encode("latin-1")), (b"content-length", b"1000")]
    return {"type": "http", "method": "POST", "path": "/", "headers": headers, "state": {}}


@pytest.mark.parametrize("content_type", KINDS)
def test_s34_a_content_type_is_one_kind_to_all(content_type: str) -> None:
    scope, kind = scope_of(content_type), KINDS[content_type]
    assert declared_kind(Headers(scope=scope)) == kind
    assert _holds_image(scope) == (kind == IMAGE)
    assert held_for(scope) == 1000 * COPIES[kind]
    if kind is None:
        with pytest.raises(UnsupportedBody):
            kind_of(Request(scope), IMAGE, JSON, MULTIPART, NPY)
    else:
        assert kind_of(Request(scope), IMAGE, JSON, MULTIPART, NPY) == kind


def held_for(scope: Scope) -> int:
    """Return the memory that is held for a request before its body comes."""
    memory, held = RequestMemory(10**6), 0

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal held
        held = memory.held_bytes

    async def nothing() -> Message:
        raise AssertionError

    async def nobody(message: Message) -> None:
        raise AssertionError

    asyncio.run(BodyLimits(application, memory, 10**6, timeout_s=30)(scope, nothing, nobody))
    return held


def test_s34_a_refusal_names_what_was_sent_and_what_is_taken() -> None:
    with pytest.raises(
        UnsupportedBody, match=r"type text/plain is not taken here; send image/\*, application/x-npy\.$"
    ):
        kind_of(Request(scope_of("Text/Plain; charset=utf-8")), IMAGE, NPY)
    with pytest.raises(UnsupportedBody, match=r"type \(none\) is not taken here; send application/json\.$"):
        asyncio.run(json_only(Request(scope_of(""))))
