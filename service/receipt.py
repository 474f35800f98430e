"""How long a caller may take to send a request and to read its answer, so that those who dawdle hold nothing.

A body that comes too slowly is answered 408 (`BodyInTime`). The connection itself is cut where nobody would read an answer: headers
that do not end, the rest of a body after its answer, an answer that is not read (`PunctualProtocol`).
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, ClassVar, Final, cast

import h11
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.announced import tell_too_large
from service.metrics import Metrics
from service.settings import Settings
from service.strict_http import StrictConnection
from service.unreadable import refuse_body, refuse_connection

_MAX_HEADER_BYTES: Final = 64 * 1024  # of a request without its body: filters and payloads may stand in its URL
_GRACE_S: Final = 1.0  # after a body's deadline, for its 408 to go out before the connection is cut


class BodyInTime:
    """ASGI middleware: ends a request whose body is not there in time with 408."""

    def __init__(self, app: ASGIApp, timeout_s: float) -> None:
        self._app = app
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        complete = False

        async def receive_in_time() -> Message:
            nonlocal complete
            if complete:
                return await receive()  # waits for the caller to leave, as long as that takes
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, headers={"Connection": "close"}) from None
            complete = not message.get("more_body", False)
            return message

        await self._app(scope, receive_in_time, send)


class PunctualProtocol(H11Protocol):
    """HTTP/1.1 whose connections are cut at their deadlines; `protocol_of` gives it the settings and what counts."""

    header_timeout_s: ClassVar[float]
    body_timeout_s: ClassVar[float]
    write_timeout_s: ClassVar[float]
    max_body_bytes: ClassVar[int]
    metrics: ClassVar[Metrics]
    conn: StrictConnection

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(*arguments, **options)
        self.conn = StrictConnection(_MAX_HEADER_BYTES)
        self._receiving: asyncio.TimerHandle | None = None  # until what is being received must be there
        self._received_state: object = None  # the part of a request that this is for
        self._writing: asyncio.TimerHandle | None = None
        self._unsent = 0  # bytes when `_writing` was set

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, and close; where the answer has begun, the connection ends without another one."""
        status, running = self.conn.refusal_status, self.cycle is not None and not self.cycle.response_complete
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._send(
                refuse_body(cast(Scope, self.scope), status) if running else refuse_connection(status, self.metrics)
            )
        if running:
            self.cycle.disconnected = True  # the application has nobody to answer any more
            self.cycle.message_event.set()
        self.transport.close()

    def _send(self, answer: Response) -> None:
        """Send a whole answer, past the application."""
        reason = HTTPStatus(answer.status_code).phrase.encode()
        headers = [*self.server_state.default_headers, *answer.raw_headers]
        for event in (
            h11.Response(status_code=answer.status_code, headers=headers, reason=reason),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers."""
        super().connection_made(transport)
        self._watch_receipt()

    def data_received(self, data: bytes) -> None:
        """Take what came, and wait for what comes next."""
        super().data_received(data)
        self._watch_receipt()

    def handle_events(self) -> None:
        """Take what the bytes that came are; an application that waits for a body hears at once that it will be too large."""
        super().handle_events()
        if self.cycle is not None and self.conn.announced_bytes > self.max_body_bytes:
            tell_too_large(cast(Scope, self.scope))
            self.cycle.message_event.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        for timer in (self._receiving, self._writing):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to wait for the caller to read."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """Go on: enough was read."""
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _watch_receipt(self) -> None:
        """Give headers, or a body, their time once: what comes in between does not prolong it."""
        state = self.conn.their_state
        if self._receiving is not None and state is self._received_state:
            return
        if self._receiving is not None:
            self._receiving.cancel()
            self._receiving = None
        if state is h11.IDLE:
            self._receiving = self.loop.call_later(self.header_timeout_s, self.transport.abort)
        elif state is h11.SEND_BODY:
            self._receiving = self.loop.call_later(self.body_timeout_s + _GRACE_S, self.transport.abort)
        self._received_state = state

    def _watch_writing(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._writing = self.loop.call_later(self.write_timeout_s, self._cut_if_nothing_was_read)

    def _cut_if_nothing_was_read(self) -> None:
        if self.transport.get_write_buffer_size() < self._unsent:
            self._watch_writing()
        else:
            self.transport.abort()


def protocol_of(settings: Settings, metrics: Metrics) -> type[PunctualProtocol]:
    """Return the protocol with the limits of the settings, which counts what it refuses."""
    names = ("header_timeout_s", "body_timeout_s", "write_timeout_s", "max_body_bytes")
    return type(
        "Protocol", (PunctualProtocol,), {**{name: getattr(settings, name) for name in names}, "metrics": metrics}
    )
