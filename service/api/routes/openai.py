"""OpenAI-compatible routes, which a client made for OpenAI uses unchanged: images as data URIs or base64, OpenAI's shape of errors."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from service.api.dependencies import get_service
from service.api.openapi import body, openai_errors, reference
from service.api.requests import EmbeddingsBody
from service.api.responses import EmbeddingsAnswer, OpenAiModel, OpenAiModels
from service.api.routes.embed import embed_each
from service.api.scopes import ScopedRoute, reads
from service.embedding.embedder import Embedded
from service.embedding.models import LoadedModel
from service.errors import DimensionMismatch
from service.http.bodies import check_count, decode_base64, path_text, read_json
from service.http.content_type import json_only
from service.http.request_state import request_state

router = APIRouter(prefix="/v1", tags=["openai"], route_class=ScopedRoute)

_CREATED = 0  # models here have a fingerprint and no date; the field is OpenAI's and must be a number


@router.post(
    "/embeddings",
    response_model=EmbeddingsAnswer,
    dependencies=[Depends(json_only)],
    responses=openai_errors(400, 404, 413, 415, 422, 503, 504),
    openapi_extra=body(json=reference(EmbeddingsBody)),
)
@reads
async def embeddings(request: Request) -> Response:
    """Embed images as OpenAI's clients ask for embeddings: all or nothing, vectors as numbers or as base64 of float32.

    `input` is one image or a list, each a data URI (`data:image/jpeg;base64,...`) or plain base64. Addresses are not fetched.
    """
    asked = await read_json(request, EmbeddingsBody)
    service = get_service(request)
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    check_count(texts, service.settings.max_request_images, "images")
    model = service.models.asked(asked.model)
    request_state(request.scope).fingerprint = model.fingerprint
    if asked.dimensions not in (None, model.artifact.manifest.dimension):
        raise DimensionMismatch(
            f"the model gives {model.artifact.manifest.dimension} dimensions and not {asked.dimensions}; leave `dimensions` out."
        )
    answers = await embed_each(request, model, [await decode_base64(text) for text in texts])
    return Response(_embeddings(model, answers, asked.encoding_format == "base64"), media_type="application/json")


def _embeddings(model: LoadedModel, answers: Sequence[Embedded | Exception], as_base64: bool) -> bytes:
    data: list[dict[str, Any]] = []
    for index, answer in enumerate(answers):
        if isinstance(answer, Exception):
            raise answer
        vector = answer.vector.astype("<f4", copy=False)
        kept = base64.b64encode(vector.tobytes()).decode() if as_base64 else vector
        data.append({"object": "embedding", "index": index, "embedding": kept})
    # images have no tokens to pay for, but clients read the field
    usage = {"prompt_tokens": 0, "total_tokens": 0}
    whole = {"object": "list", "data": data, "model": model.name, "usage": usage}
    return orjson.dumps(whole, option=orjson.OPT_SERIALIZE_NUMPY)


@router.get("/models", responses=openai_errors())
async def models(request: Request) -> OpenAiModels:
    """List the loaded models; the first is the default."""
    return OpenAiModels(data=[_model(model) for model in get_service(request).models.all()])


@router.get("/models/{name}", responses=openai_errors(404))
async def model(request: Request, name: str) -> OpenAiModel:
    """Describe one model, by its name or its fingerprint."""
    return _model(get_service(request).models.named(path_text(name)))


def _model(model: LoadedModel) -> OpenAiModel:
    return OpenAiModel(
        id=model.name, created=_CREATED, fingerprint=model.fingerprint, dimension=model.artifact.manifest.dimension
    )
