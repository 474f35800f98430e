"""The request log: what each request was and what it cost, as its id, one JSON log line, `Server-Timing` and the counters."""

from __future__ import annotations

import io
import logging
import re
import sys
import time
import uuid
from contextlib import suppress
from typing import TextIO, cast

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import log_failure, problem_response
from service.http.request_state import request_state
from service.http.traces import describe_request
from service.metrics import Metrics

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")  # what a caller may choose; anything else could forge log lines

# Nothing here is a page, but browsers are told so: no guessing of types, no frames, no scripts, no copy kept of an answer.
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
DOCS_PATH = "/docs"  # FastAPI's page takes its program from this network
_DOCS_SOURCES = "https://cdn.jsdelivr.net 'unsafe-inline'"
_DOCS_HEADERS = {
    "Content-Security-Policy": f"default-src 'self'; script-src {_DOCS_SOURCES}; style-src {_DOCS_SOURCES}; img-src * data:;"
    " frame-ancestors 'none'"
}

log = structlog.get_logger("service")


class RequestLog:
    """ASGI middleware, the outermost: gives each request an id and its timings, and logs and counts it when it has ended.

    Also the boundary of the application: what no handler caught is logged and answered 500 in the common shape.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        name_request(scope)
        state = request_state(scope)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                add_headers(scope, headers)
                if state.fingerprint:
                    headers["X-Model-Fingerprint"] = state.fingerprint
                if stages := state.timings.header():
                    headers["Server-Timing"] = stages
                describe_request(state.request_id, state.code, state.timings.seconds)  # its span ends with the answer
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:  # noqa: BLE001 - a declared boundary: a bug ends one request, not the connection or the log's shape
            if status == 0:
                await problem_response(Request(scope), error)(scope, receive, send_with_headers)
            elif status != 500:  # begun well and broken off; a 500 that was begun has been logged with its answer
                log_failure(Request(scope), error)
        finally:
            record_request(scope, status, time.perf_counter() - begun, self._metrics)


def name_request(scope: Scope) -> None:
    """Give a request its id, once: the one that it offers, where it may."""
    state = request_state(scope)
    if not state.request_id:
        offered = Headers(scope=scope).get("x-request-id", "")
        state.request_id = offered if _REQUEST_ID.fullmatch(offered) else uuid.uuid4().hex


def add_headers(scope: Scope, headers: MutableHeaders) -> None:
    """Add what every answer carries."""
    headers["X-Request-Id"] = request_state(scope).request_id
    for name, value in (_HEADERS | _DOCS_HEADERS if scope["path"] == DOCS_PATH else _HEADERS).items():
        headers.setdefault(name, value)


def record_request(scope: Scope, status: int, seconds: float, metrics: Metrics) -> None:
    """Log and count a request that has ended."""
    state = request_state(scope)
    route = getattr(scope.get("route"), "path", None)
    metrics.request_ended(scope["method"], route, status, state.code, seconds, state.timings.seconds)
    log.info(
        "request",
        request_id=state.request_id,
        key=state.key,
        method=scope["method"],
        path=scope.get("raw_path", b"").decode("latin-1")[:300],
        status=status,
        code=state.code,
        ms=round(seconds * 1000, 2),
        timings=state.timings.header() or None,
    )


class _StandardError(io.TextIOBase):
    """Standard error as it is at each write; where it is gone, a log line is lost and not the request that wrote it."""

    def write(self, text: str) -> int:
        """Write; a closed or broken standard error takes nothing."""
        with suppress(ValueError, OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with suppress(ValueError, OSError):
            sys.stderr.flush()


def configure_logging(level: str) -> None:
    """Write every log line of this process, the web server's too, as one JSON object to standard error."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer = structlog.processors.JSONRenderer()
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _StandardError())),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(_StandardError())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)
    logging.getLogger("uvicorn.error").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Leave out the web server's line about what is no HTTP: `protocol` has one written that says which."""
    return record.msg != "Invalid HTTP request received."
