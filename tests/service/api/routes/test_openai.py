"""OpenAI's routes, through OpenAI's own client where it has a say."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import openai
import pytest
from pictures import encoded, picture

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from backbone import Artifact


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{b64(data)}"


@pytest.fixture
def ask(client: TestClient) -> openai.OpenAI:
    return openai.OpenAI(base_url="http://testserver/v1", api_key="unused", http_client=client, max_retries=0)


@pytest.fixture
def name(client: TestClient) -> str:
    found: str = client.get("/v1/model").json()["model"]
    return found


def test_openais_client_gets_the_vectors_of_the_native_route(
    ask: openai.OpenAI, client: TestClient, name: str, png: Callable[..., bytes]
) -> None:
    images = [png(seed=seed) for seed in range(3)]
    native = client.post("/v1/embed", json={"images": list(map(b64, images))}).json()["data"]
    for options in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        found = ask.embeddings.create(model=name, input=list(map(uri, images)), **options)  # type: ignore[call-overload]
        assert (found.object, found.model, [each.index for each in found.data]) == ("list", name, [0, 1, 2])
        for one, other in zip(found.data, native, strict=True):
            vector = one.embedding
            if isinstance(vector, str):
                vector = np.frombuffer(base64.b64decode(vector), "<f4")
            np.testing.assert_allclose(vector, other["embedding"], atol=1e-6)
    alone = ask.embeddings.create(model=name, input=b64(images[0]))
    np.testing.assert_allclose(alone.data[0].embedding, native[0]["embedding"], atol=1e-6)


def test_openais_client_lists_the_models_and_any_of_their_names_will_do(
    ask: openai.OpenAI, name: str, tiny_artifact: Artifact, png: Callable[..., bytes]
) -> None:
    [listed] = ask.models.list().data
    assert (listed.id, listed.object, listed.owned_by) == (name, "model", "dinodex")
    assert listed.fingerprint == tiny_artifact.fingerprint  # type: ignore[attr-defined]
    for called in (name, tiny_artifact.fingerprint):
        assert ask.models.retrieve(called).id == name
        assert ask.embeddings.create(model=called, input=uri(png())).model == name


def test_a_model_that_is_not_loaded_is_openais_404(ask: openai.OpenAI, png: Callable[..., bytes]) -> None:
    for call in (
        lambda: ask.embeddings.create(model="text-embedding-3-small", input=uri(png())),
        lambda: ask.models.retrieve("text-embedding-3-small"),
    ):
        with pytest.raises(openai.NotFoundError) as refusal:
            call()
        assert refusal.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"input": []}, 422, "invalid_request"),
        ({"input": 3}, 422, "invalid_request"),
        ({}, 422, "invalid_request"),
        ({"input": "@@@"}, 400, "malformed_request"),
        ({"input": ""}, 400, "empty_body"),
        ({"input": "https://example.org/cat.png"}, 415, "unsupported_image_type"),
        ({"input": "file:///etc/passwd"}, 415, "unsupported_image_type"),
        ({"input": "data:text/html;base64,PGh0bWw+"}, 415, "unsupported_image_type"),
        ({"input": uri(b"<svg/>" * 20)}, 415, "unsupported_image_type"),
        ({"input": [uri(encoded(picture())), uri(encoded(picture())[:200])]}, 422, "image_corrupt"),
        ({"input": uri(encoded(picture())), "dimensions": 7}, 422, "dimension_mismatch"),
        ({"input": uri(encoded(picture())), "encoding_format": "float64"}, 422, "invalid_request"),
        ({"input": [uri(encoded(picture()))] * 65}, 413, "too_many_items"),
    ],
)
def test_what_is_refused_has_openais_shape(client: TestClient, body: dict[str, Any], status: int, code: str) -> None:
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, code)


def test_other_bodies_keys_and_methods_are_refused_in_that_shape_too(make_client: Callable[..., TestClient]) -> None:
    client = make_client(allow_anonymous=False, api_key="secret")
    key = {"Authorization": "Bearer secret"}
    text = client.post("/v1/embeddings", content=b"{}", headers={**key, "Content-Type": "text/plain"})
    assert (text.status_code, text.json()["error"]["code"]) == (415, "unsupported_body")
    none = client.post("/v1/embeddings", json={"input": "AAAA"})
    assert (none.status_code, none.json()["error"]["type"]) == (401, "authentication_error")
    assert client.get("/v1/embeddings", headers=key).json()["error"]["code"] == "method_not_allowed"
    assert client.get("/v1/models", headers=key).status_code == 200


def test_what_other_servers_clients_send_beside_it_is_left_alone(client: TestClient, png: Callable[..., bytes]) -> None:
    body = {"input": uri(png()), "user": "me", "modality": "image"}
    assert client.post("/v1/embeddings", json=body).status_code == 200
