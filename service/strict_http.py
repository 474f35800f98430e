"""HTTP/1.1 as h11 reads it, and a little stricter: what only someone who means harm would send ends the connection with 400 or 431."""

from __future__ import annotations

from typing import Any, Final

import h11

from service.announced import left_of_chunk

FREE_CHUNKS: Final = 1000  # of a body; how a caller cuts a small body is its affair
LEAST_CHUNK_BYTES: Final = (
    64  # on average after that: each chunk costs some 5 microseconds of the one thread that all callers share
)


class StrictConnection(h11.Connection):
    """The server's side of one connection."""

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
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._body_bytes += len(event.data)
            if self._chunks > FREE_CHUNKS + self._body_bytes // LEAST_CHUNK_BYTES:
                raise h11.RemoteProtocolError("chunks of a few bytes each", error_status_hint=400)
        return event


def _size_of(request: h11.Request) -> int:
    """Return the bytes of a request without its body, as they are usually written."""
    first_line = len(request.method) + len(request.target) + len(b"  HTTP/1.1\r\n")
    return first_line + sum(len(name) + len(value) + len(b": \r\n") for name, value in request.headers) + len(b"\r\n")
