"""What the web server itself refuses, because it is no HTTP: answered, logged and counted as every other refusal is."""

from __future__ import annotations

from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from service.metrics import Metrics
from service.problems import http_response
from service.telemetry import Timings, add_headers, name_request, record_request

_DETAIL: Final = "what was sent cannot be read as a request of HTTP; send one, with one Host and one length."


def refuse_connection(status: int, metrics: Metrics) -> Response:
    """Return the answer to what is no request; nothing of it is told to anybody, for nothing of it is known to be right."""
    scope: Scope = {"type": "http", "method": "", "path": "", "headers": [], "state": {"timings": Timings()}}
    answer = refuse_body(scope, status)
    record_request(scope, status, 0.0, metrics)
    return answer


def refuse_body(scope: Scope, status: int) -> Response:
    """Return the answer to a request whose body is none; the application, which waits for it, logs and counts the request."""
    name_request(scope)
    answer = http_response(Request(scope), HTTPException(status, _DETAIL, {"Connection": "close"}))
    add_headers(scope, answer.headers)
    return answer
