"""Point routes: put an image under an id, look at it, change what is said about it, delete it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from service.api.cancellation import cancel_on_disconnect, run_search
from service.api.dependencies import CollectionDep, PointId, get_service, parse_if_given
from service.api.openapi import body, problems
from service.api.requests import CountBody, DeleteBody, PatchPointBody, PointText, ScrollBody
from service.api.responses import CountAnswer, DeletedAnswer, PointAnswer, PutItem, ScrollAnswer
from service.api.routes.points_bulk import put_all
from service.api.scopes import ScopedRoute, reads
from service.errors import PointMissing
from service.http.bodies import check_count, parse_object, read_image
from service.http.content_type import IMAGE, json_only, kind_of
from service.ingestion.incoming import Incoming, PutResult
from service.points import UNSET, Point, hash_image

router = APIRouter(prefix="/v1/collections/{c}/points", tags=["points"], route_class=ScopedRoute)

T = TypeVar("T")


@router.post("/delete", dependencies=[Depends(json_only)], responses=problems(404, 413, 415, 422, 503))
async def delete_points(request: Request, collection: CollectionDep, body: DeleteBody) -> DeletedAnswer:
    """Delete the points with these ids, or all that a filter matches; ids that are not there do not count.

    A filter that can leave no point out is refused: deleting the collection is the way to delete all.
    """
    if body.ids is not None:
        check_count(body.ids, get_service(request).settings.max_request_points, "ids")

    def work() -> int:
        return collection.delete(body.ids, parse_if_given(body.filter))

    return DeletedAnswer(deleted=await run_in_threadpool(work))


@router.post(
    "/scroll",
    response_model=ScrollAnswer,
    response_model_exclude_unset=True,
    dependencies=[Depends(json_only)],
    responses=problems(404, 415, 422, 503, 504),
)
@reads
async def scroll_points(
    request: Request, collection: CollectionDep, body: ScrollBody | None = None
) -> dict[str, object]:
    """List points page by page, in the order of their ids."""
    wanted = body or ScrollBody()

    def work() -> tuple[Sequence[Point], str | None]:
        condition = parse_if_given(wanted.filter)
        return collection.scroll(wanted.limit, wanted.cursor, condition, with_vector=wanted.with_vector)

    points, cursor = await _read(request, work, wanted.filter)
    return {"result": points, "next_cursor": cursor}


@router.post("/count", dependencies=[Depends(json_only)], responses=problems(404, 415, 422, 503, 504))
@reads
async def count_points(request: Request, collection: CollectionDep, body: CountBody | None = None) -> CountAnswer:
    """Count the points that a filter matches, or all."""
    wanted = body or CountBody()

    def work() -> int:
        return collection.count(parse_if_given(wanted.filter))

    return CountAnswer(count=await _read(request, work, wanted.filter))


@router.put(
    "/{id}",
    response_model=PutItem,
    response_model_exclude_none=True,
    responses=problems(400, 404, 409, 413, 415, 422, 503, 504, 507),
    openapi_extra=body(image=True),
)
async def put_point(
    request: Request,
    collection: CollectionDep,
    id: PointId,  # noqa: A002 - the path's own word
    label: Annotated[PointText | None, Query(description="kept as it was if absent")] = None,
    payload: Annotated[str | None, Query(description="a JSON object; kept as it was if absent")] = None,
    replace: Annotated[bool, Query(description="put other content in place of what the id holds")] = False,
) -> PutResult:
    """Embed an image and store it under `id`; the same image again only updates label and payload."""
    kind_of(request, IMAGE)
    image = await read_image(request)
    item = Incoming(
        id,
        await run_in_threadpool(hash_image, image),
        image,
        label=UNSET if label is None else label,
        payload=UNSET if payload is None else parse_object("payload", payload),
    )
    [result] = await put_all(request, collection, [item], replace)
    if result.error is not None:
        raise result.error
    return result


@router.get("/{id}", response_model=PointAnswer, response_model_exclude_unset=True, responses=problems(404, 422))
async def get_point(
    collection: CollectionDep,
    id: PointId,  # noqa: A002
    with_vector: Annotated[bool, Query(description="also the stored unit vector")] = False,
) -> Point:
    """Return a point's label and payload."""
    return await run_in_threadpool(collection.point, id, with_vector)


@router.patch(
    "/{id}",
    response_model=PointAnswer,
    response_model_exclude_unset=True,
    dependencies=[Depends(json_only)],
    responses=problems(404, 415, 422, 503, 507),
)
async def patch_point(
    collection: CollectionDep,
    id: PointId,  # noqa: A002
    body: PatchPointBody,
) -> Point:
    """Change a point's label, its payload (as a whole) or both; null removes."""
    label = body.label if "label" in body.model_fields_set else UNSET
    payload = body.payload if "payload" in body.model_fields_set else UNSET

    def work() -> Point:
        return collection.update(id, label=label, payload=payload)

    return await run_in_threadpool(work)


@router.delete("/{id}", status_code=204, responses=problems(404, 422, 503))
async def delete_point(collection: CollectionDep, id: PointId) -> None:  # noqa: A002
    """Delete a point."""

    def work() -> int:
        return collection.delete(ids=[id])

    if await run_in_threadpool(work) == 0:
        raise PointMissing(f"the collection {collection.name} has no point {id!r}.")


@router.get(
    "/{id}/thumbnail",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}},
        **problems(404, 422, 503),
    },
)
async def get_thumbnail(request: Request, collection: CollectionDep, id: PointId) -> Response:  # noqa: A002
    """Return a small JPEG of the point's image, where the collection keeps pictures."""
    picture = await run_in_threadpool(collection.picture, id)
    if picture is None:
        raise PointMissing(f"the point {id!r} has no picture; it was stored as a vector, or the collection keeps none.")
    if collection.keep == "image":  # a stranger's bytes are never sent back as they came
        embedder = get_service(request).models.default.embedder
        picture = (await cancel_on_disconnect(request, embedder.decode_async(picture, thumbnail=True))).thumbnail
    return Response(picture, media_type="image/jpeg")


async def _read(request: Request, work: Callable[[], T], condition: dict[str, Any] | None) -> T:
    """Run a read. With a filter it looks through the collection as a search does, and takes a slot among them."""
    return await (run_in_threadpool(work) if condition is None else run_search(request, work))
