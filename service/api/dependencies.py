"""Dependencies of the handlers: the open service, the collection and point that the path names, the timings of the request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request

from service.api.requests import TEXT_RULE
from service.embedding.embedder import Embedded
from service.embedding.models import LoadedModel
from service.errors import FingerprintMismatch
from service.http.bodies import path_text
from service.http.request_state import Timings, request_state
from service.library.collection import Collection
from service.lifespan import Service
from service.points import check_id
from service.store.filters import Filter, parse_filter


def get_service(request: Request) -> Service:
    """Return the open service."""
    service: Service = request.app.state.service
    return service


def timings(request: Request) -> Timings:
    """Return the timings of this request, in which its stages are counted."""
    return request_state(request.scope).timings


def count_stages(request: Request, answers: Iterable[object]) -> None:
    """Count the time that embedding these answers took."""
    stages = timings(request)
    for answer in answers:
        if isinstance(answer, Embedded):
            stages.longest("decode", answer.decode_s)
            stages.longest("queue", answer.queue_s)
            stages.longest("infer", answer.infer_s)


async def name_model(request: Request) -> None:
    """Have the answer name the default model, unless a handler names another."""
    state = request_state(request.scope)
    if state.fingerprint is None:
        state.fingerprint = get_service(request).models.default.fingerprint


async def get_model(
    request: Request,
    model: Annotated[
        str | None, Query(description="name or fingerprint of a loaded model; the default one if absent")
    ] = None,
) -> LoadedModel:
    """Return the model that the query names, and have the answer name it. Raises ModelMissing."""
    found = get_service(request).models.asked(model)
    request_state(request.scope).fingerprint = found.fingerprint
    return found


async def get_collection(request: Request, c: Annotated[str, Path(description="the collection's name")]) -> Collection:
    """Return the collection that the path names, and have the answer name its model. Raises CollectionMissing."""
    collection = get_service(request).library.collection(path_text(c))  # is in memory
    request_state(request.scope).fingerprint = collection.fingerprint
    return collection


async def get_point_id(
    id: Annotated[  # noqa: A002 - the path's own word
        str,
        Path(
            description="the point's id, percent-encoded as one segment; behind a proxy that decodes %2F, as the rest of the path, "
            "or as /point?id= in place of /points/{id}",
            json_schema_extra=TEXT_RULE,
        ),
    ],
) -> str:
    """Return the point id that the path names. Raises InvalidId."""
    return check_id(path_text(id))


ModelDep = Annotated[LoadedModel, Depends(get_model)]
CollectionDep = Annotated[Collection, Depends(get_collection)]
PointId = Annotated[str, Depends(get_point_id)]


def check_fingerprint(collection: Collection, given: str | None) -> None:
    """Refuse vectors that say they are another model's. Raises FingerprintMismatch."""
    if given is not None and given != collection.fingerprint:
        raise FingerprintMismatch(
            f"the collection {collection.name} holds vectors of the model {collection.fingerprint[:12]}, "
            f"and the request's are of {given[:12]}; embed with the collection's model."
        )


def parse_if_given(condition: dict[str, Any] | None) -> Filter | None:
    """Return the filter of a request, if it has one. Raises FilterInvalid."""
    return None if condition is None else parse_filter(condition)
