"""Visualisation of what the network sees in an image, as a picture."""

from __future__ import annotations

from typing import Annotated, Literal

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response

from service.api.cancellation import cancel_on_disconnect
from service.api.dependencies import ModelDep, timings
from service.api.openapi import body, problems
from service.api.routes.embed import embed_each
from service.api.scopes import ScopedRoute, reads
from service.embedding.embedder import PATCHES, Embedded
from service.embedding.models import LoadedModel
from service.embedding.visualize import attention_picture, pca_picture
from service.http.bodies import read_image
from service.http.content_type import IMAGE, kind_of

router = APIRouter(prefix="/v1", tags=["embed"], route_class=ScopedRoute)


@router.post(
    "/visualize",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}},
        **problems(400, 404, 413, 415, 422, 503, 504),
    },
    openapi_extra=body(image=True),
)
@reads
async def visualize(
    request: Request,
    model: ModelDep,
    kind: Annotated[Literal["attention", "pca"], Query(description="where CLS looks, or which patches look alike")],
    head: Annotated[
        int | None, Query(ge=0, le=1000, description="of the attention, counted from 0; the mean of all if absent")
    ] = None,
) -> Response:
    """Return a PNG of what the network sees in a raw image: the heat of its attention, or its patches in colours."""
    kind_of(request, IMAGE)
    image = await read_image(request)
    picture = await (_pca(request, model, image) if kind == "pca" else _attention(request, model, image, head))
    return Response(picture, media_type="image/png")


async def _attention(request: Request, model: LoadedModel, image: bytes, head: int | None) -> bytes:
    stages = timings(request)
    with stages.measure("decode"):
        square = (await cancel_on_disconnect(request, model.embedder.decode_async(image))).square
    assert square is not None
    with stages.measure("infer"):
        attention = await model.attention(square)  # not given up: a thread that computes cannot be
    return await anyio.to_thread.run_sync(attention_picture, square, attention, head)


async def _pca(request: Request, model: LoadedModel, image: bytes) -> bytes:
    [answer] = await embed_each(request, model, [image], PATCHES)
    if not isinstance(answer, Embedded):
        raise answer
    return await anyio.to_thread.run_sync(pca_picture, answer.vector, model.artifact.preprocess.crop)
