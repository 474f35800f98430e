"""Content codings of a body (RFC 9110, section 8.4): gzip is inflated as it arrives, any other is refused by name.

What comes out of it counts as what came in does: in its size, its time and its memory. A megabyte that would become ten gigabytes ends
with 413 as soon as the limit is passed, and no more than a piece of it is inflated before anybody has asked for that piece.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import UnsupportedContentCoding
from service.http.body_limits import declared_length
from service.http.problems import problem_response

_TAKEN: Final = ("gzip", "x-gzip")  # the second is an old name of the first (RFC 9110, section 8.4.1.3)
_GZIP_WINDOW: Final = 31  # zlib's number of a gzip header and the largest window
_INPUT_BYTES: Final = 16 * 1024  # inflated in one go: a millisecond at worst, however little comes out of it
_OUTPUT_BYTES: Final = 64 * 1024
_FREE_BYTES: Final = 64 * 1024  # of input from which nothing may come: headers, and blocks that a sender has flushed
_LEAST_YIELD: Final = 0.5  # bytes that come out of each byte after that; of pixels, which do not shrink, one comes out
_OF_THE_CODING: Final = (b"content-encoding", b"content-length")


class ContentCoding:
    """ASGI middleware: bodies in gzip look to those inside as if they had come in chunks, without any coding."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        codings = _codings(scope)
        if not codings or declared_length(Headers(scope=scope)) > self._max_body_bytes:
            await self._app(scope, receive, send)  # what is too large already is answered without reading it
        elif len(codings) > 1 or codings[0] not in _TAKEN:
            error = UnsupportedContentCoding(
                f"the content coding {', '.join(codings)[:100]} is not taken; send the body as it is, or once in gzip."
            )
            answer = problem_response(Request(scope), error)
            answer.headers["Accept-Encoding"] = "gzip"  # RFC 9110, section 15.5.16
            await answer(scope, receive, send)
        else:
            inner = {**scope, "headers": _headers_of_chunks(scope["headers"])}
            try:
                await self._app(inner, Inflation(receive).receive, send)
            finally:
                scope["route"] = inner.get("route")  # for those outside, who count by it


def _codings(scope: Scope) -> list[str]:
    """Return the codings of a request's body, in the order in which they were applied; none where it has no body."""
    if scope["type"] != "http":
        return []
    headers = Headers(scope=scope)
    if "transfer-encoding" not in headers and headers.get("content-length", "0") == "0":
        return []
    named = [name.strip(" \t").lower() for value in headers.getlist("content-encoding") for name in value.split(",")]
    return [name for name in named if name not in ("", "identity")]


def _headers_of_chunks(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers of the same body without a coding, whose length nobody knows."""
    kept = [(name, value) for name, value in headers if name not in _OF_THE_CODING]
    return (
        kept if any(name == b"transfer-encoding" for name, _ in kept) else [*kept, (b"transfer-encoding", b"chunked")]
    )


class Inflation:
    """The messages of a body, inflated: each is a piece, made when it is asked for."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._inflater = zlib.decompressobj(_GZIP_WINDOW)
        self._begun = False  # the member at hand; several, one after another, are one stream (RFC 1952, section 2.2)
        self._full = False  # the last piece was, and there may be more where it came from
        self._input, self._at = b"", 0  # what has come, and how much of that is inflated
        self._arrived = self._ended = False
        self._taken = self._given = 0  # bytes

    async def receive(self) -> Message:
        """Return the next message. Raises HTTPException (400): the body is no gzip, or does not end."""
        if self._ended:
            return await self._receive()  # that the caller leaves
        piece = b""
        while not piece and not self._ended:
            if self._full or self._at < len(self._input):
                piece = self._inflate()
                await asyncio.sleep(0)  # what is here already would come without a turn for anybody else
            elif self._arrived:
                if self._begun:
                    raise _malformed("ends too early")
                self._ended = True
            else:
                message = await self._receive()
                if message["type"] != "http.request":
                    return message
                self._input, self._at = message.get("body", b""), 0
                self._arrived = not message.get("more_body", False)
        return {"type": "http.request", "body": piece, "more_body": not self._ended}

    def _inflate(self) -> bytes:
        """Return the next piece, which may be empty."""
        given = self._input[self._at : self._at + _INPUT_BYTES]
        try:
            piece = self._inflater.decompress(given, _OUTPUT_BYTES)
        except zlib.error:
            raise _malformed("is not gzip, or damaged") from None
        left = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
        taken = len(given) - len(left)
        self._at += taken
        self._taken += taken
        self._given += len(piece)
        if self._taken > _FREE_BYTES + self._given / _LEAST_YIELD:
            raise _malformed("is gzip of almost nothing")
        self._full = len(piece) == _OUTPUT_BYTES
        self._begun = True
        if self._inflater.eof:
            self._inflater = zlib.decompressobj(_GZIP_WINDOW)
            self._begun = self._full = False
        return piece


def _malformed(reason: str) -> HTTPException:
    detail = f"the body says that its content coding is gzip, and {reason}; send it again, or as it is."
    return HTTPException(400, detail, {"Connection": "close"})  # the rest of it may be on the way
