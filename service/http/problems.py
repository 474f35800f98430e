"""Problem details (RFC 9457): the one place that maps both error trees to status codes, and the one shape of errors as answers.

400 cannot be read · 401 no key · 403 a key of too little scope · 404 unknown · 405 · 408 a body that is too slow · 409 does not go with
what is there · 413 too much · 415 not an accepted type · 422 refused for what it says · 429 this key asks too often · 431 headers too
large · 500 ours, never caused by input · 503 not now · 504 too late · 507 disk full. Items of a batch carry the same object.
"""

from __future__ import annotations

import traceback
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backbone import errors as backbone_errors
from service import errors
from service.http.request_state import request_state

MEDIA_TYPE = "application/problem+json"

# The nearest class of an error's own tree decides.
STATUS: dict[type[Exception], int] = {
    backbone_errors.ImageRefused: 422,
    backbone_errors.EmptyImage: 400,
    backbone_errors.UnsupportedImageType: 415,
    backbone_errors.TooManyBytes: 413,
    backbone_errors.StorageFailed: 503,
    errors.Missing: 404,
    errors.Conflict: 409,
    errors.Invalid: 422,
    errors.DuplicateId: 400,
    errors.Storage: 503,
    errors.StorageFull: 507,
    errors.JobCancelled: 409,
    errors.Unreadable: 400,
    errors.Unauthorized: 401,
    errors.ScopeMissing: 403,
    errors.TooManyItems: 413,
    errors.UnsupportedBody: 415,
    errors.ItemsRefused: 422,
    errors.Unavailable: 503,
    errors.DeadlinePassed: 504,
    errors.CallerLeft: 499,  # in the log and the counters alone; the number is nginx's
    errors.TooManyRequests: 429,
}
RETRY_AFTER_S: dict[type[Exception], int] = {
    errors.Saturated: 1,  # a full queue is a few seconds of work, and half of it will do
    errors.DeadlinePassed: 5,  # what was before it in the queue is done by then
    errors.EmbedderRestarted: 1,
    errors.DecoderUnavailable: 1,  # connections that end give descriptors back
    errors.Stopping: 5,  # what another instance, or this one again, needs to be ready
    errors.StorageFailed: 30,  # a person has to look
    backbone_errors.StorageFailed: 30,
}
_OPENAI_ROUTES = ("/v1/embeddings", "/v1/models")  # whose errors have OpenAI's shape
_HTTP_CODES = {
    400: "malformed_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "body_too_slow",
    413: "body_too_large",
    431: "headers_too_large",
    503: errors.Saturated.code,
}
_HTTP_DETAILS = {
    404: "there is no such route; /openapi.json lists them.",
    405: "the route does not have this method; /openapi.json lists them.",
    408: "the request body did not come in time; send less at once, or over a faster connection.",
    413: "the request is larger than this service takes; send less at once, or ask for less.",
    431: "the request's line and headers are larger than 64 KiB; send what is long in its body.",
    503: "running requests hold as much memory as they may; come back in a second.",
}

log = structlog.get_logger("service")


def status_of(error: Exception) -> int:
    """Return the status code for an error; 500 for whatever is in neither tree."""
    return next((STATUS[cls] for cls in type(error).__mro__ if cls in STATUS), 500)


def item_problem(error: Exception) -> dict[str, Any]:
    """Return the problem object of one item of a batch: type, title, status, detail, code[, retry_after_s]."""
    status = status_of(error)
    if status == 500 and not isinstance(error, errors.Inference):
        code, detail = "internal_error", _INTERNAL  # a bug, or an error that belongs to starting: nothing of it is told
    elif isinstance(error, backbone_errors.StorageFailed):
        code, detail = errors.StorageFailed.code, _STORAGE_FAILED  # its own words are for the shell, and name the file
    else:
        code, detail = getattr(error, "code", "internal_error"), str(error)
    problem = _problem(status, code, detail)
    usual = next((RETRY_AFTER_S[cls] for cls in type(error).__mro__ if cls in RETRY_AFTER_S), None)
    retry = getattr(error, "retry_after_s", usual)
    return problem if retry is None else {**problem, "retry_after_s": retry}


def error_of(code: str, detail: str) -> errors.ServiceError:
    """Return the error that a job recorded, so that it is answered as if it had been raised here."""
    waiting: list[type[errors.ServiceError]] = [errors.ServiceError]
    while waiting:
        cls = waiting.pop()
        if cls.code == code:
            return cls(detail) if cls is not errors.ItemsRefused else errors.ItemsRefused(detail, ())
        waiting.extend(cls.__subclasses__())
    return errors.ServiceError(detail)


def problem_response(request: Request, error: Exception) -> Response:
    """Return the answer to a request that an error ended; what is our fault is logged with its cause."""
    problem = item_problem(error)
    if isinstance(error, errors.ItemsRefused):
        problem["errors"] = [{"index": index, **item_problem(each)} for index, each in error.errors]
    if problem["status"] == 500:
        log_failure(request, error)
    return _respond(request, problem)


def http_response(request: Request, error: HTTPException) -> Response:
    """Return the answer to a request that the framework, or what stands between it and the connection, refused."""
    detail = _HTTP_DETAILS.get(error.status_code, str(error.detail))
    problem = _problem(error.status_code, _HTTP_CODES.get(error.status_code, f"http_{error.status_code}"), detail)
    if error.status_code == 503:
        problem["retry_after_s"] = RETRY_AFTER_S[errors.Saturated]
    return _respond(request, problem, error.headers)


def log_failure(request: Request, error: BaseException) -> None:
    """Log an error that is ours, with where it happened as module and line: paths of the machine stay out of the log."""
    cause = error.__cause__ or error
    frames = traceback.walk_tb(cause.__traceback__)
    where = [f"{frame.f_globals.get('__name__', '?')}:{line}" for frame, line in frames]
    detail = cause.strerror if isinstance(cause, OSError) else str(cause)  # its text names the file
    log.error(
        "failed", request_id=_request_id(request), error=type(cause).__name__, detail=(detail or "")[:500], where=where
    )


def install(app: FastAPI) -> None:
    """Answer every error of `app` in this module's shape."""
    app.add_exception_handler(errors.ServiceError, _on_known)
    app.add_exception_handler(backbone_errors.BackboneError, _on_known)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_known)


async def _on_known(request: Request, error: Exception) -> Response:
    return problem_response(request, error)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        of_one = dict(error.headers or {}).get("Allow", "")
        error = HTTPException(405, headers={"Allow": _allowed(request, of_one)})
    return http_response(request, error)


def _allowed(request: Request, of_one: str) -> str:
    """Return the methods of a path as they are documented: the framework names those of the first of its routes alone."""
    path = getattr(request.scope.get("route"), "path", None)
    methods = request.app.openapi()["paths"].get(path)
    return of_one if methods is None else ", ".join(sorted(map(str.upper, methods)))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    # Nobody reads this answer; it keeps a body that ended early from counting as our fault.
    return _respond(request, _problem(400, "malformed_request", "the connection ended before the body did."))


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(entry["type"] == "json_invalid" for entry in found):
        return _respond(request, _problem(400, "malformed_request", "the body is not valid JSON."))
    entries = [
        {"loc": [str(part) for part in entry["loc"]], "code": entry["type"], "detail": entry["msg"]} for entry in found
    ]
    first = entries[0]
    detail = f"{'.'.join(first['loc'])}: {first['detail']}"  # the values themselves are not sent back
    return _respond(request, {**_problem(422, "invalid_request", detail), "errors": entries})


def _problem(status: int, code: str, detail: str) -> dict[str, Any]:
    title = code.replace("_", " ").capitalize()
    text = detail.encode(errors="backslashreplace").decode()  # half a character of the request's cannot be sent back
    return {"type": f"urn:dinodex:{code}", "title": title, "status": status, "detail": text, "code": code}


def _respond(request: Request, problem: dict[str, Any], extra: Any = None) -> Response:  # noqa: ANN401 - starlette's headers
    request_state(request.scope).code = problem["code"]
    headers = dict(extra or {})
    if "retry_after_s" in problem:
        headers["Retry-After"] = str(problem["retry_after_s"])
    if problem["status"] == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if request.scope.get("path", "").startswith(_OPENAI_ROUTES):
        return JSONResponse(_as_openai(problem), problem["status"], headers)
    content = {**problem, "request_id": _request_id(request)}
    return JSONResponse(content, problem["status"], headers, MEDIA_TYPE)


def _as_openai(problem: dict[str, Any]) -> dict[str, Any]:
    """Return a problem as OpenAI's clients expect an error."""
    status = problem["status"]
    kind = "server_error" if status >= 500 else "authentication_error" if status == 401 else "invalid_request_error"
    return {"error": {"message": problem["detail"], "type": kind, "param": None, "code": problem["code"]}}


def _request_id(request: Request) -> str | None:
    return request_state(request.scope).request_id or None


class TooLargeAsProblem:
    """ASGI middleware around the framework's body limit, which answers 413 in plain text: gives that answer our shape."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        replaced = False

        async def send_shaped(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] == 413:
                kind = dict(message["headers"]).get(b"content-type", b"")
                replaced = kind.startswith(b"text/plain")
                if replaced:
                    request = Request(scope)
                    answer = _respond(
                        request, _problem(413, _HTTP_CODES[413], _HTTP_DETAILS[413]), {"Connection": "close"}
                    )
                    await answer(scope, receive, send)
            if not replaced:
                await send(message)

        await self._app(scope, receive, send_shaped)


_STORAGE_FAILED = "the disk refused to read or write; send this again once its space and permissions are seen to."
_INTERNAL = "the service failed on this request; its log names the reason under the same request id."
