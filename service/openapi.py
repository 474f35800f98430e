"""Documentation of what FastAPI cannot see: bodies of several content types, and the one shape of errors."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.answers import OpenAiError, Problem
from service.problems import MEDIA_TYPE

_REF = "#/components/schemas/{model}"
_BINARY = {"type": "string", "format": "binary"}
_IMAGES = ("image/jpeg", "image/png", "image/webp")
_documented: set[type[BaseModel]] = {Problem}  # models named by `body`, whose schemas the document must carry


def body(
    *, json: type[BaseModel] | None = None, image: bool = False, parts: dict[str, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Return `openapi_extra` for a body that is JSON of a model, or a raw image, or multipart with the given parts."""
    content: dict[str, Any] = {}
    if json is not None:
        _documented.add(json)
        content["application/json"] = {"schema": reference(json)}
    if image:
        content |= {kind: {"schema": _BINARY} for kind in _IMAGES}
    if parts is not None:
        content["multipart/form-data"] = {"schema": {"type": "object", "properties": parts}}
    return {"requestBody": {"required": True, "content": content}}


def reference(model: type[BaseModel]) -> dict[str, Any]:
    """Return a reference to a model's schema, and have the document carry it."""
    _documented.add(model)
    return {"$ref": _REF.format(model=model.__name__)}


def files(description: str) -> dict[str, Any]:
    """Return the schema of a multipart part that is repeated for each file."""
    return {"type": "array", "items": _BINARY, "description": description}


def file(description: str) -> dict[str, Any]:
    """Return the schema of a multipart part that is one file."""
    return {**_BINARY, "description": description}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return `responses` for a route: the statuses it answers errors with, in the one shape."""
    content = {MEDIA_TYPE: {"schema": _REF_PROBLEM}}
    return {status: {"description": _WHEN[status], "content": content} for status in sorted({*statuses, 401, 429, 500})}


def openai_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return `responses` for a route that answers errors in OpenAI's shape."""
    return {
        status: {"model": OpenAiError, "description": _WHEN[status]} for status in sorted({*statuses, 401, 429, 500})
    }


def install(app: FastAPI) -> None:
    """Have /openapi.json carry the schemas that `body` and `problems` refer to, and the two ways to present a key."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            _, shared = models_json_schema([(model, "validation") for model in _documented], ref_template=_REF)
            components = document.setdefault("components", {})
            components["schemas"] = {**shared["$defs"], **components.get("schemas", {})}
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            }
            for operation in (each for item in document["paths"].values() for each in item.values()):
                _add_receipt(operation)
            document["security"] = [{"bearer": []}, {"header": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _add_receipt(operation: dict[str, Any]) -> None:
    """Document how the receipt of a body can fail, whatever the route."""
    if "requestBody" in operation:
        shape = operation["responses"]["401"]["content"]
        for status in (400, 408, 413, 503):
            operation["responses"].setdefault(str(status), {"description": _WHEN[status], "content": shape})


_REF_PROBLEM = {"$ref": _REF.format(model="Problem")}
_WHEN = {
    400: "The request cannot be read.",
    401: "No key, or not the right one.",
    403: "The key may read only.",
    404: "What was asked for is not there.",
    408: "The body did not come in time.",
    409: "It does not go with what is there.",
    413: "Too many bytes or items.",
    415: "Not an accepted content or image type.",
    422: "Refused for what it says: a bad value, or an image that cannot be embedded.",
    429: "This key asks too often.",
    500: "A fault of the service.",
    503: "Not now; come back.",
    504: "It waited, or took, longer than a request may.",
    507: "The disk is full.",
}
