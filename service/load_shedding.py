"""Load shedding: under overload most requests are refused, and what each refusal costs is taken from those that are answered.

So the most frequent ones are refused in front of the framework, before a body is read: one image that there is no room for, and
searches that could not even wait.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.types import Scope

from service.embedding.models import Models
from service.errors import Unavailable
from service.http.content_type import IMAGE, declared_kind
from service.lifespan import Service

_SEARCHES: Final = ("/query", "/query/batch", "/classify")  # what these paths end with, and no others of a POST


def overload_refusal(scope: Scope) -> Unavailable | None:
    """Return why a request would not be answered now, as a check of the gate; None where it may be.

    Asked are a POST whose body is one raw image, of the room in the loaded models, and searches. Other bodies tell how many images they
    hold only when they are read, and a PUT may be of an image that is stored already: the embedder itself answers those.
    """
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    service: Service = scope["app"].state.service
    error: Unavailable | None = None
    if _holds_image(scope):
        error = _embedding_refusal(service.models)
    if error is None and scope["path"].startswith("/v1/collections/") and scope["path"].endswith(_SEARCHES):
        error = service.searches.refusal()  # also before an image is embedded to search by it
    return error


def _holds_image(scope: Scope) -> bool:
    return declared_kind(Headers(scope=scope)) == IMAGE


def _embedding_refusal(models: Models) -> Unavailable | None:
    """Return why no model would take an image now; None where one does."""
    error = None
    for model in models.all():
        error = model.embedder.refusal()
        if error is None:
            return None
    return error
