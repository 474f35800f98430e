"""Pictures of what the network sees: drawn from known tokens, and over HTTP."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from service.embedding.visualize import attention_picture, pca_picture
from service.errors import Invalid

if TYPE_CHECKING:
    from starlette.testclient import TestClient

PNG = {"content-type": "image/png"}
SQUARE = np.full((64, 64, 3), 100, np.uint8)


def shown(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.mode) == ("PNG", "RGB")
    return np.asarray(image).astype(int)


def test_the_picture_is_hottest_where_the_attention_is() -> None:
    attention = np.full((1, 64), 0.001, np.float32)
    attention[0, 8 * 2 + 5] = 0.9  # row 2, column 5 of 8 x 8 patches of 8 pixels
    brightness = shown(attention_picture(SQUARE, attention)).sum(-1)
    row, column = np.unravel_index(brightness.argmax(), brightness.shape)
    assert (row // 8, column // 8) == (2, 5)
    assert brightness[60, 4] < brightness.max() / 3


def test_a_head_can_be_shown_alone_and_one_that_is_not_there_is_refused() -> None:
    attention = np.eye(4, dtype=np.float32)[:2]  # two heads, each on a patch of its own
    pictures = [attention_picture(SQUARE, attention, head) for head in (None, 0, 1)]
    assert len(set(pictures)) == 3
    with pytest.raises(Invalid, match="has 2 heads"):
        attention_picture(SQUARE, attention, 2)


def test_attention_on_nothing_is_a_picture_too() -> None:
    assert shown(attention_picture(SQUARE, np.zeros((1, 4), np.float32))).shape == (64, 64, 3)


def test_like_patches_have_like_colours() -> None:
    noise = np.random.default_rng(0).normal(scale=0.01, size=(64, 16))
    left = np.arange(64) % 8 < 4
    tokens = (np.where(left[:, None], 1.0, -1.0) * np.linspace(0.1, 1, 16) + noise).astype(np.float32)
    pixels = shown(pca_picture(tokens, 64))
    assert abs(pixels[10, 8, 0] - pixels[50, 8, 0]) < 30
    assert abs(pixels[10, 8, 0] - pixels[10, 56, 0]) > 150


def test_turned_axes_change_no_colour() -> None:
    tokens = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
    turned, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))
    first, again = shown(pca_picture(tokens, 32)), shown(pca_picture(tokens.copy(), 32))
    assert (first == again).all()
    other = shown(pca_picture((tokens @ turned).astype(np.float32), 32))
    # components keep their values; each may change its sign with the axes
    assert all(min(abs(first[..., c] - o).max() for o in (other[..., c], 255 - other[..., c])) <= 2 for c in range(3))


@pytest.mark.parametrize("tokens", [np.ones((16, 8)), np.ones((1, 8)), np.eye(4, 2)], ids=["alike", "one", "narrow"])
def test_an_image_of_one_kind_is_grey_and_never_noise(tokens: np.ndarray) -> None:
    pixels = shown(pca_picture(tokens.astype(np.float32), 16))
    assert pixels.shape == (16, 16, 3)
    assert (pixels[..., 2] == 128).all(), "there is no third component"


@pytest.mark.parametrize("kind", ["attention", "pca"])
def test_the_route_gives_a_picture_of_the_size_that_the_network_sees(
    client: TestClient, png: Callable[..., bytes], kind: str
) -> None:
    answer = client.post("/v1/visualize", params={"kind": kind}, content=png(), headers=PNG)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-model-fingerprint"] == client.get("/v1/model").json()["fingerprint"]
    assert {"decode", "infer"} <= {stage.split(";")[0] for stage in answer.headers["server-timing"].split(", ")}
    assert shown(answer.content).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("params", "content", "kind", "status", "code"),
    [
        ({}, None, "image/png", 422, "invalid_request"),
        ({"kind": "saliency"}, None, "image/png", 422, "invalid_request"),
        ({"kind": "attention", "head": "1"}, None, "image/png", 200, None),
        ({"kind": "attention", "head": "2"}, None, "image/png", 422, "invalid"),
        ({"kind": "attention", "head": "-1"}, None, "image/png", 422, "invalid_request"),
        ({"kind": "attention", "model": "none"}, None, "image/png", 404, "model_not_found"),
        ({"kind": "attention"}, b"", "image/png", 400, "empty_body"),
        ({"kind": "pca"}, b"", "image/png", 400, "empty_body"),
        ({"kind": "attention"}, b"<svg/>" * 9, "image/png", 415, "unsupported_image_type"),
        ({"kind": "pca"}, b"<svg/>" * 9, "image/png", 415, "unsupported_image_type"),
        ({"kind": "pca"}, b"{}", "application/json", 415, "unsupported_body"),
    ],
)
def test_what_is_no_request_for_a_picture_is_refused(
    client: TestClient,
    png: Callable[..., bytes],
    params: dict[str, str],
    content: bytes | None,
    kind: str,
    status: int,
    code: str | None,
) -> None:
    body = png() if content is None else content
    answer = client.post("/v1/visualize", params=params, content=body, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert code is None or answer.json()["code"] == code


def test_a_network_without_attention_answers_422(
    make_client: Callable[..., TestClient], png: Callable[..., bytes], tmp_path: Path
) -> None:
    from backbone import Architecture, Preprocess, build
    from backbone.artifact_writer import write_artifact

    card = {"licence": "Apache-2.0", "lineage": "random weights, for tests", "training": {}}
    model = build(Architecture("resnet", {"depth": 18}))
    write_artifact(tmp_path / "cnn", model, Preprocess.for_image_size(32), onnx=False, **card)  # type: ignore[arg-type]
    client = make_client(artifact=tmp_path / "cnn")
    answer = client.post("/v1/visualize?kind=attention", content=png(), headers=PNG)
    assert (answer.status_code, answer.json()["code"]) == (422, "no_attention")
    assert client.post("/v1/visualize?kind=pca", content=png(), headers=PNG).status_code == 200
