"""The gate: the first check that refuses answers, and nobody behind it is asked."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from service.errors import Saturated, Stopping, Unauthorized
from service.http.gate import Check, Gate


def sent_for(scope: Scope, *checks: Check) -> list[Message]:
    """Return what a gate in front of an application sends."""
    sent: list[Message] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await PlainTextResponse("let in")(scope, receive, send)
        else:
            await send({"type": f"let in a {scope['type']}"})

    async def receive() -> Message:
        raise AssertionError("a gate reads no body")

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(Gate(application, *checks)(scope, receive, send))
    return sent


def http() -> Scope:
    return {"type": "http", "method": "POST", "path": "/v1/embed", "headers": []}


def allows(scope: Scope) -> None:
    return None


def refuses(error: Exception) -> Check:
    return lambda scope: error


def never(scope: Scope) -> None:
    raise AssertionError("nobody asks it")


def test_what_no_check_refuses_is_let_in() -> None:
    assert sent_for(http(), allows, allows)[1]["body"] == b"let in"
    assert sent_for(http())[1]["body"] == b"let in"


def test_checks_are_asked_in_their_order_and_none_after_a_refusal() -> None:
    start, body = sent_for(http(), allows, refuses(Unauthorized("no key")), never)
    assert start["status"] == 401
    assert json.loads(body["body"])["code"] == "unauthorized"


@pytest.mark.parametrize(("error", "closes"), [(Stopping(), True), (Saturated("full"), False)])
def test_only_a_service_that_stops_closes_the_connection(error: Exception, closes: bool) -> None:
    start = sent_for(http(), refuses(error))[0]
    assert start["status"] == 503
    assert ((b"connection", b"close") in start["headers"]) == closes


def test_a_websocket_is_checked_and_closed_and_a_lifespan_is_not_checked() -> None:
    websocket = {"type": "websocket", "path": "/", "headers": []}
    assert [each["type"] for each in sent_for(websocket, refuses(Unauthorized("no key")))] == ["websocket.close"]
    assert [each["type"] for each in sent_for(websocket, allows)] == ["let in a websocket"]
    assert [each["type"] for each in sent_for({"type": "lifespan"}, never)] == ["let in a lifespan"]
