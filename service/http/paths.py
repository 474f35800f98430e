"""Paths of requests, as they were sent: below the prefix of a proxy, with ids that hold slashes, and the other ways to give an id.

Under /v1/ routes are matched on the raw path, so that an id may hold `/` as `%2F` in its one segment. Some proxies decode that, merge
slashes and resolve dots before they hand a request on. Two forms stand for the same routes there:

    /v1/collections/{c}/points/a/b.png           the rest of the path; one that ends with /thumbnail is the thumbnail of what is before
    /v1/collections/{c}/point?id=a/b.png         a parameter, which holds every id; /point/thumbnail?id= is its thumbnail
"""

from __future__ import annotations

import re
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import MalformedRequest
from service.http.problems import problem_response

_REST: Final = re.compile(r"(/v1/collections/[^/]+/points/)(.+?)(/thumbnail)?")
_PARAMETER: Final = re.compile(r"(/v1/collections/[^/]+/point)(/thumbnail)?")
_ID: Final = b"id="


class RootPath:
    """ASGI middleware: what a proxy has left of its prefix is taken off the path; one that has taken it off itself is as good.

    The framework hears of it for the addresses that /docs and /openapi.json name.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path
        self._prefix = root_path.encode()  # of characters that are the same with and without encoding

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if self._prefix and scope["type"] == "http":
            scope["root_path"] = self._root_path
            if (scope["raw_path"] + b"/").startswith(self._prefix + b"/"):
                length = len(self._prefix)
                scope["path"] = scope["path"][length:] or "/"
                scope["raw_path"] = scope["raw_path"][length:] or b"/"
        await self._app(scope, receive, send)


class RawPath:
    """ASGI middleware: under /v1/ the path is as it was sent, with its id, however that is given, as one segment."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        raw = scope.get("raw_path", b"")
        if not (scope["type"] == "http" and raw.startswith(b"/v1/")):
            await self._app(scope, receive, send)
            return
        try:
            path = path_of(raw.decode("latin-1"), scope["query_string"])
        except MalformedRequest as error:
            await problem_response(Request(scope), error)(scope, receive, send)
            return
        inner = {**scope, "path": path}
        try:
            await self._app(inner, receive, send)
        finally:
            scope["route"] = inner.get("route")  # for those outside, who count by it


def path_of(raw: str, query: bytes) -> str:
    """Return the path that is matched. Raises MalformedRequest: it wants an id in the query, and there is not exactly one."""
    if found := _PARAMETER.fullmatch(raw):
        collection, thumbnail = found.groups("")
        return f"{collection}s/{_given_id(query)}{thumbnail}"
    if found := _REST.fullmatch(raw):
        points, point_id, thumbnail = found.groups("")
        return f"{points}{_segment(point_id)}{thumbnail}"
    return raw


def _given_id(query: bytes) -> str:
    """Return the id that a query holds, as a segment of a path."""
    given = [part.removeprefix(_ID) for part in query.split(b"&") if part.startswith(_ID)]
    if len(given) != 1 or not given[0]:
        raise MalformedRequest("the query must name one point; send ?id= with its percent-encoded id, once.")
    return _segment(given[0].decode("latin-1").replace("+", "%20"))  # a plus in a query is a blank


def _segment(encoded: str) -> str:
    return encoded.replace("/", "%2F")
