"""Bulk puts of points: JSON with vectors or base64 images, multipart with image files, or one npy matrix with ids."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray

from backbone.errors import ImageRefused
from service.api.dependencies import CollectionDep, check_fingerprint, count_stages, get_service
from service.api.openapi import body, file, files, problems, reference
from service.api.requests import PointIn, PutPointsBody, exactly_one
from service.api.responses import Problem, PutAnswer, PutItem
from service.api.scopes import ScopedRoute
from service.concurrency.cooperative import Yielder
from service.embedding.embedder import Answer
from service.errors import Invalid, MalformedRequest
from service.http.bodies import (
    check_count,
    decode_base64,
    float32,
    form_files,
    form_text,
    parse_json,
    parse_npy,
    read_form,
    read_json,
)
from service.http.body_limits import bytes_of_values, hold
from service.http.content_type import JSON, MULTIPART, kind_of
from service.http.problems import item_problem, log_failure
from service.ingestion.incoming import Incoming, PutResult
from service.ingestion.ingest import Ingest
from service.library.collection import Collection
from service.points import UNSET, hash_image, hash_vector
from service.settings import Settings

router = APIRouter(prefix="/v1/collections/{c}", tags=["points"], route_class=ScopedRoute)

_JSON = {**reference(PutPointsBody), "properties": {"points": {"items": exactly_one("vector", "image")}}}
_BARE = {"properties": {"vector": {"type": "null"}, "image": {"type": "null"}}}
_FORM = {
    "properties": {
        "points": {
            **reference(PutPointsBody),
            "properties": {"points": {"items": _BARE}},
            "description": "what PUT takes as JSON, each point without vector and image",
            "examples": [{"points": [{"id": "cat/1.png", "label": "cat"}], "replace": True}],
        },
        "files": files("one image for each point, in the same order"),
        "vectors": file("instead of files: one npy matrix [points, dimension]"),
    },
    "required": ["points"],
    "oneOf": [{"required": ["files"]}, {"required": ["vectors"]}],
}


@router.put(
    "/points",
    response_model_exclude_none=True,
    responses=problems(400, 404, 409, 413, 415, 422, 503, 504, 507),
    openapi_extra=body(json=_JSON, form=_FORM),
)
async def put_points(request: Request, collection: CollectionDep) -> PutAnswer:
    """Store many points durably. Images succeed one by one; an invalid vector refuses the whole request.

    As multipart: a JSON part `points`, and either one part `files` for each point or one part `vectors` with an npy matrix.
    """
    settings = get_service(request).settings
    if kind_of(request, JSON, MULTIPART) == JSON:
        wanted = await read_json(request, PutPointsBody, settings.max_request_points)
        _check_sizes(wanted.points, sum(point.image is not None for point in wanted.points), settings)
        check_fingerprint(collection, wanted.fingerprint)
        items = [item async for item in _from_json(wanted.points)]
    else:
        wanted, items = await _from_form(request, collection, settings)
    readable = [item for item in items if isinstance(item, Incoming)]
    results = {each.id: each for each in await put_all(request, collection, readable, wanted.replace)}
    return PutAnswer(
        result=[_answer(request, results[item.id] if isinstance(item, Incoming) else item) for item in items]
    )


async def put_all(
    request: Request, collection: Collection, items: Sequence[Incoming], replace: bool
) -> list[PutResult]:
    """Ingest in a thread of its own kind, so that puts that wait for the network never hold up searches.

    Raises:
        FingerprintMismatch: there are images, and the collection's model is not loaded.
    """
    service = get_service(request)
    has_images = any(item.image is not None for item in items)
    model = service.models.of(collection.fingerprint) if has_images else None

    def work() -> list[PutResult]:
        ingest = Ingest(collection, items, replace)
        while not ingest.done:
            answers: Sequence[Answer] = []
            if model is not None and (images := ingest.images):
                answers = model.embedder.embed(images, thumbnails=collection.keep == "thumbnail")
                count_stages(request, answers)
            ingest.put(answers)
        return ingest.results

    return await anyio.to_thread.run_sync(work, limiter=service.waiting_threads)


def _check_sizes(points: Sequence[PointIn], images: int, settings: Settings) -> None:
    check_count(points, settings.max_request_points, "points")
    check_count(range(images), settings.max_request_images, "images")


async def _from_json(points: Sequence[PointIn]) -> AsyncIterator[Incoming | PutResult]:
    yielder = Yielder()
    for index, point in enumerate(points):
        await yielder.yield_if_due()
        if (point.vector is None) == (point.image is None):
            raise Invalid(f"points.{index}: give either vector or image.")
        if point.vector is not None:
            yield _with_vector(point, float32(point.vector))
            continue
        assert point.image is not None
        try:
            yield _with_image(point, await decode_base64(point.image))
        except (MalformedRequest, ImageRefused) as error:
            yield PutResult(point.id, error=error)


async def _from_form(
    request: Request, collection: Collection, settings: Settings
) -> tuple[PutPointsBody, list[Incoming | PutResult]]:
    async with read_form(request, settings.max_request_images + 1, settings.max_body_bytes) as form:
        text = await form_text(form, "points")
        hold(request, bytes_of_values(text))
        wanted = await parse_json(text, PutPointsBody, settings.max_request_points)
        images, matrices = await form_files(form, "files"), await form_files(form, "vectors")
    _check_sizes(wanted.points, len(images), settings)
    check_fingerprint(collection, wanted.fingerprint)
    if any(point.vector is not None or point.image is not None for point in wanted.points):
        raise Invalid("in a multipart request the points carry no vector or image; send parts named files or vectors.")
    if bool(images) == bool(matrices) or len(matrices) > 1:
        raise MalformedRequest("a multipart request needs either parts named files, or one part named vectors.")
    if images:
        _check_equal(len(wanted.points), len(images), "files")
        return wanted, [_with_image(point, image) for point, image in zip(wanted.points, images, strict=True)]
    matrix = parse_npy(matrices[0])
    _check_equal(len(wanted.points), len(matrix), "vectors")
    return wanted, [_with_vector(point, row) for point, row in zip(wanted.points, matrix, strict=True)]


def _check_equal(points: int, contents: int, what: str) -> None:
    if points != contents:
        raise Invalid(
            f"the request has {points} points and {contents} {what}; send one for each point, in the same order."
        )


def _with_vector(point: PointIn, vector: NDArray[np.float32]) -> Incoming:
    return _incoming(point, hash_vector(vector), vector=vector)


def _with_image(point: PointIn, image: bytes) -> Incoming:
    return _incoming(point, hash_image(image), image=image)


def _incoming(
    point: PointIn,
    content_hash: bytes,
    *,
    image: bytes | None = None,
    vector: NDArray[np.float32] | None = None,
) -> Incoming:
    said = point.model_fields_set
    return Incoming(
        point.id,
        content_hash,
        image,
        vector,
        label=point.label if "label" in said else UNSET,
        payload=point.payload if "payload" in said else UNSET,
    )


def _answer(request: Request, result: PutResult) -> PutItem:
    if result.error is None:
        return PutItem(id=result.id, status=result.status)
    problem = item_problem(result.error)
    if problem["status"] == 500:
        log_failure(request, result.error)
    return PutItem(id=result.id, error=Problem(**problem))
