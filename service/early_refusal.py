"""Under overload most requests are refused, and what each refusal costs is taken from those that are answered.

So the most frequent ones are made in front of the framework, before a body is read: one image that there is no room for, and a search.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.content_type import IMAGE, declared_kind
from service.errors import Unavailable
from service.models import Models
from service.opened import Service
from service.problems import problem_response

_SEARCHES = ("/query", "/query/batch", "/classify")  # what these paths end with, and no others of a POST


class RefuseEarly:
    """ASGI middleware: answers 503 to a POST whose body is one raw image while no loaded model has room for one, and to searches that
    could not even wait.

    Other bodies tell how many images they hold only when they are read, and a PUT may be of an image that is stored already: the
    embedder itself answers those. The connection stays open, and what arrives of the body is dropped by the web server.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if (error := _refusal(scope)) is not None:
            await problem_response(Request(scope), error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _refusal(scope: Scope) -> Unavailable | None:
    """Return why a request would not be answered now; None where it may be."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    service: Service = scope["app"].state.service
    error: Unavailable | None = None
    if _holds_image(scope):
        error = _refusal_to_embed(service.models)
    if error is None and scope["path"].startswith("/v1/collections/") and scope["path"].endswith(_SEARCHES):
        error = service.searches.refusal()  # also before an image is embedded to search by it
    return error


def _holds_image(scope: Scope) -> bool:
    return declared_kind(Headers(scope=scope)) == IMAGE


def _refusal_to_embed(models: Models) -> Unavailable | None:
    """Return why no model would take an image now; None where one does."""
    error = None
    for model in models.all():
        error = model.embedder.refusal()
        if error is None:
            return None
    return error
