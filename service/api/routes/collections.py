"""Collection routes: make, look at, drop."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from service.api.dependencies import CollectionDep, get_service
from service.api.openapi import problems
from service.api.requests import CollectionBody
from service.api.responses import CollectionAnswer, CollectionsAnswer
from service.api.scopes import ScopedRoute
from service.embedding.models import Models
from service.http.bodies import path_text
from service.http.content_type import json_only
from service.library.collection import Collection
from service.points import COLLECTION_NAME

router = APIRouter(prefix="/v1/collections", tags=["collections"], route_class=ScopedRoute)


@router.get("", responses=problems())
async def list_collections(request: Request) -> CollectionsAnswer:
    """List the collections by name."""
    service = get_service(request)

    def work() -> list[CollectionAnswer]:
        return [_described(each, service.models) for each in service.library.collections()]

    return CollectionsAnswer(result=await run_in_threadpool(work))


@router.put(
    "/{c}",
    dependencies=[Depends(json_only)],
    responses={201: {"model": CollectionAnswer, "description": "Created."}, **problems(409, 415, 422, 503, 507)},
)
async def create_collection(
    request: Request,
    response: Response,
    c: Annotated[
        str,
        Path(
            description="the collection's name: letters, digits, _ . -",
            json_schema_extra={"pattern": f"^{COLLECTION_NAME.pattern}$"},
        ),
    ],
    body: CollectionBody | None = None,
) -> CollectionAnswer:
    """Make a collection for the vectors of one model: 201, or 200 where it exists with the same settings."""
    service = get_service(request)
    wanted = body or CollectionBody()
    model = service.models.of(wanted.fingerprint) if wanted.fingerprint is not None else service.models.default

    def work() -> tuple[Collection, bool]:
        name, keep = path_text(c), wanted.keep
        return service.library.create(name, model.fingerprint, model.artifact.manifest.dimension, keep)

    collection, created = await run_in_threadpool(work)
    response.status_code = 201 if created else 200
    return await run_in_threadpool(_described, collection, service.models)


@router.get("/{c}", responses=problems(404))
async def get_collection(request: Request, collection: CollectionDep) -> CollectionAnswer:
    """Describe a collection: how many points, which index, its measured recall and memory."""
    return await run_in_threadpool(_described, collection, get_service(request).models)


@router.delete("/{c}", status_code=204, responses=problems(404, 503))
async def delete_collection(request: Request, collection: CollectionDep) -> None:
    """Drop a collection with all that is in it."""
    await run_in_threadpool(get_service(request).library.drop, collection.name)


def _described(collection: Collection, models: Models) -> CollectionAnswer:
    stats = collection.stats()
    return CollectionAnswer(
        name=collection.name,
        fingerprint=collection.fingerprint,
        dimension=collection.dimension,
        keep=collection.keep,
        count=stats.points,
        labels=stats.labels,
        labelled=stats.labelled,
        index=stats.index,
        measured_recall=stats.measured_recall,
        memory_bytes=stats.memory_bytes,
        tail=stats.tail,
        building=stats.building,
        model_loaded=models.loaded(collection.fingerprint),
    )
