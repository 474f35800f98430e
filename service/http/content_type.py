"""The content type of a body: one reading of it, for the route that takes the body, for its memory and for load shedding.

Two readings would let one body through as two things: counted as an image, say, and parsed as JSON.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request

from service.errors import UnsupportedBody

IMAGE: Final = "image"
JSON: Final = "json"
MULTIPART: Final = "multipart"
NPY: Final = "npy"
_KINDS: Final = {"application/json": JSON, "multipart/form-data": MULTIPART, "application/x-npy": NPY}
_NAMES: Final = {IMAGE: "image/*", **{kind: name for name, kind in _KINDS.items()}}


def declared_kind(headers: Headers) -> str | None:
    """Return which kind of body the headers announce; None for one that nothing here takes, and where they say nothing.

    Case, parameters and the blanks around them mean nothing (RFC 9110, section 8.3.1); other white space is part of a wrong name.
    """
    media_type = _media_type(headers)
    if media_type.startswith("image/"):
        return IMAGE
    if media_type.startswith("application/") and media_type.endswith("+json"):
        return JSON
    return _KINDS.get(media_type)


def kind_of(request: Request, *taken: str) -> str:
    """Return which of the kinds that a route takes the body has.

    Raises:
        UnsupportedBody: another one, or none.
    """
    kind = declared_kind(request.headers)
    if kind is None or kind not in taken:
        names = ", ".join(_NAMES[each] for each in taken)
        shown = _media_type(request.headers)[:100] or "(none)"
        raise UnsupportedBody(f"the content type {shown} is not taken here; send {names}.")
    return kind


async def json_only(request: Request) -> None:
    """Refuse a body that is not JSON, for routes that take nothing else.

    Raises:
        UnsupportedBody: it says that it is something else, or nothing.
    """
    # A request with neither header has no body (RFC 9112, section 6.3); curl sends PUT without one that way.
    if "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0":
        kind_of(request, JSON)


def _media_type(headers: Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip(" \t").lower()
