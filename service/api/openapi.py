"""The OpenAPI document, where FastAPI cannot see it: bodies of several content types, the one shape of errors, and examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from backbone.formats import MEDIA_TYPES, SERVICE_FORMATS
from service.api import openapi_examples, openapi_schemas, requests
from service.api.openapi_schemas import FILTER, PAYLOAD
from service.api.responses import OpenAiError, Problem
from service.embedding.models import LoadedModel
from service.http.problems import MEDIA_TYPE

_REF = "#/components/schemas/{model}"
_JSON_PARAMETERS = {"filter": {"anyOf": [FILTER, {"type": "null"}]}, "payload": {"anyOf": [PAYLOAD, {"type": "null"}]}}
_BINARY = {"type": "string", "format": "binary"}
_IMAGES = tuple(MEDIA_TYPES[name] for name in SERVICE_FORMATS)
_REF_PROBLEM = {"$ref": _REF.format(model=Problem.__name__)}
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


def body(
    *, json: dict[str, Any] | None = None, image: bool = False, form: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return `openapi_extra` for a body that is JSON of the schema given, or a raw image, or multipart as `form` has it."""
    content: dict[str, Any] = {}
    if json is not None:
        content["application/json"] = {"schema": json}
    if image:
        content |= {kind: {"schema": _BINARY} for kind in _IMAGES}
    if form is not None:
        content["multipart/form-data"] = {"schema": {"type": "object", **form}}
    return {"requestBody": {"required": True, "content": content}}


def reference(model: type[BaseModel]) -> dict[str, Any]:
    """Return a reference to the schema of a body, a model of `service.api.requests`."""
    return {"$ref": _REF.format(model=model.__name__)}


def files(description: str) -> dict[str, Any]:
    """Return the schema of a multipart part that is repeated for each file."""
    return {"type": "array", "items": _BINARY, "minItems": 1, "description": description}


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
            components = document["components"]
            components["schemas"] = {
                **openapi_schemas.COMPONENTS,
                **_referenced_schemas(document),
                **components["schemas"],
            }
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            }
            add_examples = _examples_for(app)
            for operation in _operations(document):
                _add_receipt(operation)
                _offer_images(operation, _formats(app))
                _describe_json_parameters(operation)
                add_examples(operation)
            document["security"] = [{"bearer": []}, {"header": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _referenced_schemas(document: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas that the framework does not know of: of bodies that `reference` names, and of problems."""
    known = document["components"]["schemas"]
    bodies = [operation["requestBody"]["content"] for operation in _operations(document) if "requestBody" in operation]
    named = {_model_of(content["schema"]) for each in bodies for content in each.values()} - {"", *known}
    models = [Problem, *(getattr(requests, name) for name in named)]
    _, shared = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    return shared["$defs"]


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (operation for item in document["paths"].values() for operation in item.values())


def _add_receipt(operation: dict[str, Any]) -> None:
    """Document how the receipt of a body can fail, whatever the route."""
    if "requestBody" in operation:
        shape = operation["responses"]["401"]["content"]
        for status in (400, 408, 413, 503):
            operation["responses"].setdefault(str(status), {"description": _WHEN[status], "content": shape})


def _formats(app: FastAPI) -> tuple[str, ...]:
    service = getattr(app.state, "service", None)
    return SERVICE_FORMATS if service is None else service.settings.formats


def _offer_images(operation: dict[str, Any], formats: tuple[str, ...]) -> None:
    """Have a body that may be a raw image be one of the formats that this service takes."""
    content = operation.get("requestBody", {}).get("content", {})
    offered: dict[str, Any] = {}
    for kind, schema in content.items():
        if kind == _IMAGES[0]:  # in place of all of them
            offered |= {MEDIA_TYPES[name]: {"schema": _BINARY} for name in formats}
        elif kind not in _IMAGES:
            offered[kind] = schema
    if content:
        operation["requestBody"]["content"] = offered


def _describe_json_parameters(operation: dict[str, Any]) -> None:
    """Say that a parameter of the URL is the JSON of an object, which the framework takes for any text."""
    for parameter in operation.get("parameters", []):
        if parameter["name"] in _JSON_PARAMETERS:
            del parameter["schema"]
            parameter["content"] = {"application/json": {"schema": _JSON_PARAMETERS[parameter["name"]]}}


def _examples_for(app: FastAPI) -> Callable[[dict[str, Any]], None]:
    """Return what gives an operation its examples: for the default model, or for none in particular where none is open."""
    service = getattr(app.state, "service", None)
    model: LoadedModel | None = None if service is None else service.models.default
    bodies = openapi_examples.bodies(4 if model is None else model.artifact.manifest.dimension)
    parameters = openapi_examples.parameters("vit_tiny_patch16" if model is None else model.name)

    def add(operation: dict[str, Any]) -> None:
        for parameter in operation.get("parameters", []):
            if parameter["name"] in parameters:
                # where there is `content`, the example is one of that content
                target = parameter.get("content", {}).get("application/json", parameter)
                target["example"] = parameters[parameter["name"]]
        for content in operation.get("requestBody", {}).get("content", {}).values():
            if found := bodies.get(_model_of(content["schema"])):
                content["examples"] = {name: {"value": value} for name, value in found.items()}
        for status, response in operation["responses"].items():
            for content in response.get("content", {}).values():
                if status.startswith("2") and (found := openapi_examples.ANSWERS.get(_model_of(content["schema"]))):
                    content.setdefault("example", found)

    return add


def _model_of(schema: dict[str, Any]) -> str:
    """Return the name of the model that a schema refers to, alone or beside null; empty where it is none."""
    references = [each["$ref"] for each in (schema, *schema.get("anyOf", ())) if "$ref" in each]
    return references[0].rpartition("/")[2] if references else ""
