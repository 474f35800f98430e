"""Embedding routes: images in, vectors out; nothing is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from backbone.errors import ImageRefused
from service.api.cancellation import cancel_on_disconnect
from service.api.dependencies import ModelDep, count_stages, get_service
from service.api.openapi import body, files, problems, reference
from service.api.requests import EmbedBody
from service.api.responses import EmbedAnswer
from service.api.scopes import ScopedRoute, reads
from service.concurrency.cooperative import Yielder
from service.embedding.embedder import Embedded
from service.embedding.models import LoadedModel
from service.errors import ItemsRefused, MalformedRequest
from service.http.bodies import check_count, decode_base64, form_files, read_form, read_image, read_json, to_npy
from service.http.body_limits import hold
from service.http.content_type import IMAGE, JSON, MULTIPART, kind_of
from service.http.json_parts import PartsResponse, json_list, json_numbers
from service.http.problems import item_problem, log_failure
from service.http.request_state import request_state
from service.settings import Settings

router = APIRouter(prefix="/v1", tags=["embed"], route_class=ScopedRoute)

Output = Literal["cls", "mean", "cls+mean", "patches"]
NPY_TYPE = "application/x-npy"
_NUMBER_BYTES = 44  # of a number on its way into an answer: 20 as text, twice while that text is put together, 4 before


@router.post(
    "/embed",
    response_model=EmbedAnswer,
    responses={
        200: {"content": {NPY_TYPE: {"schema": {"type": "string", "format": "binary"}}}},
        **problems(400, 404, 413, 415, 422, 503, 504),
    },
    openapi_extra=body(
        json=reference(EmbedBody),
        image=True,
        form={"properties": {"files": files("the images")}, "required": ["files"]},
    ),
)
@reads
async def embed(
    request: Request,
    model: ModelDep,
    output: Annotated[Output | None, Query(description="how tokens are pooled; the model's own way if absent")] = None,
) -> Response:
    """Embed one image (raw body) or several (multipart `files`, or JSON with base64).

    A raw image that is refused answers its own status; in a list each item has its vector or its error.
    With `Accept: application/x-npy` (`;dtype=float16` for halves) the answer is one matrix, or 422 naming every refused image.
    """
    raw = kind_of(request, IMAGE, MULTIPART, JSON) == IMAGE
    images = [await read_image(request)] if raw else await _read_list(request, get_service(request).settings)
    answers = await embed_each(request, model, images, output)
    if raw and isinstance(answers[0], Exception):
        raise answers[0]
    dtype = _npy_dtype(request.headers.get("accept", ""))
    fingerprint = model.fingerprint if output is None else model.artifact.fingerprint_for(output)
    request_state(request.scope).fingerprint = fingerprint
    if dtype is not None:
        # numpy's work and the file's are copies, for which the lock is let go or held for a moment
        matrix = await run_in_threadpool(lambda: to_npy(_matrix(answers, dtype)))
        return Response(matrix, media_type=NPY_TYPE)
    hold(request, _NUMBER_BYTES * sum(answer.vector.size for answer in answers if isinstance(answer, Embedded)))
    yielder = Yielder()
    data = json_list([await _item(request, index, answer, yielder) for index, answer in enumerate(answers)])
    rest = orjson.dumps({"model": model.name, "fingerprint": fingerprint})
    return PartsResponse([b'{"data":', *data, b",", rest[1:]], media_type="application/json")


async def embed_each(
    request: Request,
    model: LoadedModel,
    images: Sequence[bytes | Exception],
    output: str | None = None,
) -> list[Embedded | Exception]:
    """Embed what could be read, keep the errors of what could not, in order; counts the stages of the request."""
    readable = [image for image in images if not isinstance(image, Exception)]
    answers = iter(await cancel_on_disconnect(request, model.embedder.embed_async(readable, output)))
    joined = [image if isinstance(image, Exception) else next(answers) for image in images]
    count_stages(request, joined)
    return joined


async def base64_images(texts: Sequence[str]) -> list[bytes | Exception]:
    """Decode base64 text by text; one that is none becomes the error of that item."""
    images: list[bytes | Exception] = []
    for text in texts:
        try:
            images.append(await decode_base64(text))
        except (MalformedRequest, ImageRefused) as error:
            images.append(error)
    return images


async def _read_list(request: Request, settings: Settings) -> list[bytes | Exception]:
    most = settings.max_request_images
    if kind_of(request, MULTIPART, JSON) == JSON:
        texts = (await read_json(request, EmbedBody, most)).images
        check_count(texts, most, "images")
        return await base64_images(texts)
    async with read_form(request, most, settings.max_body_bytes) as form:
        images: list[bytes | Exception] = [*await form_files(form, "files")]
    if not images:
        raise MalformedRequest("a multipart request needs at least one part named files.")
    return images


async def _item(request: Request, index: int, answer: Embedded | Exception, yielder: Yielder) -> list[bytes]:
    """Return an answer as JSON, in parts."""
    if isinstance(answer, Embedded):
        return [b'{"index":%d,"embedding":' % index, *await json_numbers(answer.vector, yielder), b"}"]
    return [orjson.dumps({"index": index, "error": _problem(request, answer)})]


def _problem(request: Request, error: Exception) -> dict[str, Any]:
    problem = item_problem(error)
    if problem["status"] == 500:
        log_failure(request, error)
    return problem


def _npy_dtype(accept: str) -> type[np.floating[Any]] | None:
    """Return the dtype that an Accept header asks for, or None where it does not ask for npy."""
    for entry in accept.lower().split(","):
        kind, *params = (part.strip() for part in entry.split(";"))
        if kind == NPY_TYPE:
            return np.float16 if "dtype=float16" in params else np.float32
    return None


def _matrix(answers: Sequence[Embedded | Exception], dtype: type[np.floating[Any]]) -> np.ndarray[Any, Any]:
    refused = [(index, answer) for index, answer in enumerate(answers) if isinstance(answer, Exception)]
    if refused:
        raise ItemsRefused(
            f"{len(refused)} of {len(answers)} images were refused, so there is no matrix; see errors.", refused
        )
    return np.stack([answer.vector for answer in answers if isinstance(answer, Embedded)]).astype(dtype)
