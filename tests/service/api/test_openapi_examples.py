"""Examples of the OpenAPI document: every one is sent as it stands and answered as documented."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from PIL import Image

from service.api.openapi_examples import PICTURE

if TYPE_CHECKING:
    from starlette.testclient import TestClient

Operation = dict[str, Any]
PNG = base64.b64decode(PICTURE)
C = "/v1/collections/animals"


@dataclass
class Example:
    """A request of the document: what it is an example of, and how it is sent."""

    method: str
    path: str
    name: str
    operation: Operation
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path} ({self.name})"


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, Operation]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def requests_of(document: dict[str, Any]) -> Iterator[Example]:
    """Give every request that the document shows: of each body each example, and one where there is no body."""
    for method, path, operation in operations(document):
        example = partial(Example, method, path, operation=operation)
        content = operation.get("requestBody", {}).get("content", {})
        if not content:
            yield example("no body")
        for kind, media in content.items():
            if kind.startswith("image/"):
                yield example(kind, options={"content": picture(kind), "headers": {"content-type": kind}})
            elif kind == "multipart/form-data":
                for name, parts in forms(media["schema"]):
                    yield example(name, options=parts)
            else:
                for name, each in media["examples"].items():
                    yield example(name, options={"json": each["value"]})


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(PNG)) as image:
        image.save(buffer, format=kind.removeprefix("image/"))
    return PNG if kind == "image/png" else buffer.getvalue()


def forms(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give a form with its JSON part as the document shows it, once with pictures and, where it may be, once with a matrix."""
    parts = schema["properties"]
    data = {name: json.dumps(part["examples"][0]) for name, part in parts.items() if "examples" in part}
    yield "form with files", {"data": data, "files": [("files", ("1.png", PNG))]}
    if "vectors" in parts:
        buffer = io.BytesIO()
        np.save(buffer, np.eye(1, 32, dtype=np.float32))
        yield "form with vectors", {"data": data, "files": [("vectors", ("1.npy", buffer.getvalue()))]}


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


@pytest.fixture
def animals(client: TestClient, document: dict[str, Any]) -> Callable[[], dict[str, str]]:
    """Make the collection anew as the document itself shows it; return the ids that the service gave what it made of it."""
    bodies = {
        (each.method, each.path, each.name): each.options
        for each in requests_of(document)
        if each.path.startswith("/v1/collections/{c}")
    }

    def send(method: str, path: str, name: str, **params: object) -> Any:  # noqa: ANN401 - JSON
        url = path.replace("{c}", "animals").replace("{id}", "cat%2F1.png")
        answer = client.request(method, url, **bodies[method, path, name], params=params)
        assert answer.is_success, answer.text
        return answer.json()

    def make() -> dict[str, str]:
        client.delete(C)
        send("put", "/v1/collections/{c}", "as usual")
        send("put", "/v1/collections/{c}/points", "vectors")
        send("put", "/v1/collections/{c}/points/{id}", "image/png", replace=True)
        clustering = send("post", "/v1/collections/{c}/clusterings", "kmeans")["clustering"]
        job = send("post", "/v1/collections/{c}/outliers", "as usual", wait_s=0)["job"]
        return {"g": clustering, "job": job}

    return make


def sent(client: TestClient, example: Example, own_ids: dict[str, str]) -> httpx.Response:
    """Send an example with those of its parameters; ids that the service gives itself are in place of those shown."""
    path, params = example.path, {}
    for parameter in example.operation.get("parameters", []):
        name = parameter["name"]
        shown = [each["example"] for each in (parameter, *parameter.get("content", {}).values()) if "example" in each]
        if not shown:
            assert not parameter["required"], f"{example}: {name} has no example"
            continue
        value = json.dumps(shown[0]) if "content" in parameter else str(shown[0])
        if parameter["in"] == "path":
            path = path.replace(f"{{{name}}}", quote(own_ids.get(name, value), safe=""))
        else:
            params[name] = value
    return client.request(example.method, path, params=params, **example.options)


def errors_of(document: dict[str, Any], schema: dict[str, Any], value: object) -> list[str]:
    validator = Draft202012Validator({**schema, "components": document["components"]})
    return [error.message for error in validator.iter_errors(value)]


def test_every_example_is_answered_as_documented(
    client: TestClient, document: dict[str, Any], animals: Callable[[], dict[str, str]]
) -> None:
    examples = list(requests_of(document))
    assert len(examples) > 80
    for example in examples:
        answer = sent(client, example, animals())
        assert answer.is_success, f"{example}: {answer.text}"
        documented = example.operation["responses"][str(answer.status_code)].get("content", {})
        if not documented:
            assert answer.content == b"", example
            continue
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind in documented, example
        if kind == "application/json":
            assert not errors_of(document, documented[kind]["schema"], answer.json()), example


def test_every_body_in_json_has_an_example_that_its_schema_allows(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for kind, media in operation.get("requestBody", {}).get("content", {}).items():
            if kind == "application/json":
                assert media["examples"], f"{method} {path}"
                for name, example in media["examples"].items():
                    assert not errors_of(document, media["schema"], example["value"]), f"{method} {path} {name}"


def test_every_answer_in_json_has_an_example_that_its_schema_allows(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for status, response in operation["responses"].items():
            media = response.get("content", {}).get("application/json")
            if media is not None and status.startswith("2"):
                assert not errors_of(document, media["schema"], media["example"]), f"{method} {path} {status}"


def test_vectors_in_examples_are_of_the_loaded_model(document: dict[str, Any]) -> None:
    shown = document["paths"]["/v1/collections/{c}/query"]["post"]["requestBody"]["content"]["application/json"]
    assert len(shown["examples"]["by vector"]["value"]["vector"]) == 32


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    validate(document)
