"""An HTTP/1.1 connection: read a little more strictly than h11 does, cut at its deadlines, and answered where it speaks no HTTP.

A body that comes too slowly is answered 408 (`body_limits`). The connection itself is cut where nobody would read an answer: headers
that do not end, the rest of a body after its answer, an answer that is not read. What only someone who means harm would send ends the
connection with 400 or 431, answered, logged and counted as every other refusal is.
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Any, Final, cast

import h11
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.http.problems import http_response
from service.http.request_log import add_headers, name_request, record_request
from service.http.request_state import request_state
from service.metrics import Metrics
from service.settings import Settings

_MAX_HEADER_BYTES: Final = 64 * 1024  # of a request without its body: filters and payloads may stand in its URL
_FREE_CHUNKS: Final = 1000  # of a body; how a caller cuts a small body is its affair
_LEAST_CHUNK_BYTES: Final = 64  # on average after that: a chunk takes some 5 microseconds of the event loop
_GRACE_S: Final = 1.0  # after a body's deadline, for its 408 to go out before the connection is cut
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://[^/?#@]+((?:[/?].*)?)")
_DETAIL: Final = "what was sent cannot be read as a request of HTTP; send one, with one Host and one length."


class StrictConnection(h11.Connection):
    """h11's reading of one connection, which refuses a little more than h11 does and counts what a body announces."""

    def __init__(self, max_incomplete_event_size: int) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size)
        self._max_header_bytes = max_incomplete_event_size
        self.refusal_status = 400  # of what `next_event` has refused
        self._chunks = 0
        self._body_bytes = 0

    @property
    def announced_bytes(self) -> int:
        """Return how large the body will be at least: what has come, and the rest of the chunk that has begun."""
        return self._body_bytes + left_of_chunk(self._reader)

    def next_event(self) -> Any:  # noqa: ANN401 - h11's events have no common type
        """Return the next event.

        Raises:
            h11.RemoteProtocolError: h11 refuses it, or this class does: headers that are too large also where they came at once, a body
                with two lengths (RFC 9112, section 6.3: whoever stands in front of us may have read the other one), or one in very
                small chunks.
        """
        state = self.their_state
        try:
            return self._checked(super().next_event())
        except h11.RemoteProtocolError as error:
            if state is h11.IDLE and error.error_status_hint == 431:  # what is too long of a body is no header
                self.refusal_status = 431
            raise

    def _checked(self, event: Any) -> Any:  # noqa: ANN401
        if isinstance(event, h11.Request):
            if _size_of(event) > self._max_header_bytes:
                raise h11.RemoteProtocolError("headers too large", error_status_hint=431)
            self._chunks = self._body_bytes = 0
            names = {name for name, _ in event.headers}
            if {b"content-length", b"transfer-encoding"} <= names:
                raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding", error_status_hint=400)
            return _in_origin_form(event)
        if isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._body_bytes += len(event.data)
            if self._chunks > _FREE_CHUNKS + self._body_bytes // _LEAST_CHUNK_BYTES:
                raise h11.RemoteProtocolError("chunks of a few bytes each", error_status_hint=400)
        return event


def _in_origin_form(request: h11.Request) -> h11.Request:
    """Return a request with the path and query of its target alone, which a proxy may have sent with scheme and host (RFC 9112, 3.2.2).

    Which host that is means nothing here, as the Host header means nothing. One with a name of a user in it is no address of ours
    (RFC 9110, section 4.2.4), and stays a path that there is not.
    """
    found = _ABSOLUTE.fullmatch(request.target)
    if found is None:
        return request
    rest = found[1]
    target = rest if rest.startswith(b"/") else b"/" + rest
    return h11.Request(method=request.method, headers=request.headers, target=target, http_version=request.http_version)


def left_of_chunk(reader: object) -> int:
    """Return how many bytes of a chunk that has begun are still to come, given what h11 reads the connection with; 0 for no chunk.

    h11 publishes no size of a chunk before its last byte is there, and reading the headers of chunks a second time would need another
    parser that agrees with it on every byte. So this looks at its reader. Where another version calls it otherwise, nothing is found:
    such a body ends at its deadline, with 408, and a test of S27 fails.
    """
    found = getattr(reader, "_bytes_in_chunk", 0)
    return found if isinstance(found, int) else 0


def _size_of(request: h11.Request) -> int:
    """Return the bytes of a request without its body, as they are usually written."""
    first_line = len(request.method) + len(request.target) + len(b"  HTTP/1.1\r\n")
    return first_line + sum(len(name) + len(value) + len(b": \r\n") for name, value in request.headers) + len(b"\r\n")


class TimedProtocol(H11Protocol):
    """uvicorn's side of one connection, which is cut at the deadlines of the settings; `metrics` counts what is refused here."""

    conn: StrictConnection

    def __init__(self, *arguments: Any, settings: Settings, metrics: Metrics, **options: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(*arguments, **options)
        self.conn = StrictConnection(_MAX_HEADER_BYTES)
        self._settings = settings
        self._metrics = metrics
        self._receive_timer: asyncio.TimerHandle | None = None  # until what is being received must be there
        self._timed_state: object = None  # the part of a request that this is for
        self._write_timer: asyncio.TimerHandle | None = None
        self._unsent_bytes = 0  # when `_write_timer` was set

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers."""
        super().connection_made(transport)
        self._set_receive_timer()

    def data_received(self, data: bytes) -> None:
        """Take what came, and wait for what comes next."""
        super().data_received(data)
        self._set_receive_timer()

    def handle_events(self) -> None:
        """Take what the bytes that came are; an application that waits for a body hears at once that it will be too large."""
        super().handle_events()
        if self.cycle is not None and self.conn.announced_bytes > self._settings.max_body_bytes:
            request_state(cast(Scope, self.scope)).announced_too_large = True
            self.cycle.message_event.set()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, and close; where the answer has begun, the connection ends without another one."""
        status, running = self.conn.refusal_status, self.cycle is not None and not self.cycle.response_complete
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._send(
                refuse_body(cast(Scope, self.scope), status) if running else refuse_connection(status, self._metrics)
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

    def pause_writing(self) -> None:
        """Begin to wait for the caller to read."""
        super().pause_writing()
        self._set_write_timer()

    def resume_writing(self) -> None:
        """Go on: enough was read."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        for timer in (self._receive_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _set_receive_timer(self) -> None:
        """Give headers, or a body, their time once: what comes in between does not prolong it."""
        state = self.conn.their_state
        if self._receive_timer is not None and state is self._timed_state:
            return
        if self._receive_timer is not None:
            self._receive_timer.cancel()
            self._receive_timer = None
        if state is h11.IDLE:
            self._receive_timer = self.loop.call_later(self._settings.header_timeout_s, self.transport.abort)
        elif state is h11.SEND_BODY:
            self._receive_timer = self.loop.call_later(self._settings.body_timeout_s + _GRACE_S, self.transport.abort)
        self._timed_state = state

    def _set_write_timer(self) -> None:
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(self._settings.write_timeout_s, self._abort_if_nothing_was_read)

    def _abort_if_nothing_was_read(self) -> None:
        if self.transport.get_write_buffer_size() < self._unsent_bytes:
            self._set_write_timer()
        else:
            self.transport.abort()


def refuse_connection(status: int, metrics: Metrics) -> Response:
    """Return the answer to what is no request; nothing of it is told to anybody, for nothing of it is known to be right."""
    scope: Scope = {"type": "http", "method": "", "path": "", "headers": []}
    answer = refuse_body(scope, status)
    record_request(scope, status, 0.0, metrics)
    return answer


def refuse_body(scope: Scope, status: int) -> Response:
    """Return the answer to a request whose body is none; the application, which waits for it, logs and counts the request."""
    name_request(scope)
    answer = http_response(Request(scope), HTTPException(status, _DETAIL, {"Connection": "close"}))
    add_headers(scope, answer.headers)
    return answer
