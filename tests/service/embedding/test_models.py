"""Several artifacts in one service: the first is the default, and a collection keeps to its own."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from service.errors import SettingsInvalid
from service.settings import load_settings

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from backbone import Artifact

PNG = {"content-type": "image/png"}


@pytest.fixture
def both(make_client: Callable[..., TestClient], tiny_artifact: Artifact, other_artifact: Artifact) -> TestClient:
    return make_client(artifact=[tiny_artifact.path, other_artifact.path])


def expected(artifact: Artifact, image: bytes) -> np.ndarray:
    import torch

    vector: np.ndarray = artifact.embed(torch.from_numpy(artifact.preprocess(image)[None]))[0].numpy()
    return vector


def test_the_models_are_listed_with_the_default_one_first(
    both: TestClient, tiny_artifact: Artifact, other_artifact: Artifact
) -> None:
    listed = [model["fingerprint"] for model in both.get("/v1/models").json()["data"]]
    assert listed == [tiny_artifact.fingerprint, other_artifact.fingerprint]
    assert both.get("/v1/model").json()["fingerprint"] == tiny_artifact.fingerprint
    second = both.get("/v1/model", params={"model": other_artifact.fingerprint}).json()
    assert second["fingerprint"] == other_artifact.fingerprint
    assert both.get("/readyz").json()["status"] == "ready"


def test_an_image_is_embedded_by_the_model_that_is_asked_for(
    both: TestClient, tiny_artifact: Artifact, other_artifact: Artifact, png: Callable[..., bytes]
) -> None:
    names = {model["fingerprint"]: model["id"] for model in both.get("/v1/models").json()["data"]}
    for artifact in (tiny_artifact, other_artifact):
        for asked in (artifact.fingerprint, names[artifact.fingerprint]):
            answer = both.post("/v1/embed", params={"model": asked}, content=png(), headers=PNG)
            assert answer.headers["x-model-fingerprint"] == answer.json()["fingerprint"] == artifact.fingerprint
            assert answer.json()["data"][0]["embedding"] @ expected(artifact, png()) == pytest.approx(1, abs=1e-5)
            openai = {"model": asked, "input": base64.b64encode(png()).decode()}
            vector = both.post("/v1/embeddings", json=openai).json()["data"][0]["embedding"]
            assert vector @ expected(artifact, png()) == pytest.approx(1, abs=1e-5)
    assert both.post("/v1/embed", content=png(), headers=PNG).json()["fingerprint"] == tiny_artifact.fingerprint


@pytest.mark.parametrize("name", ["", "none", "a\0b", "é", "x" * 5000])
def test_a_model_that_is_not_loaded_is_not_found(both: TestClient, png: Callable[..., bytes], name: str) -> None:
    answer = both.post("/v1/embed", params={"model": name}, content=png(), headers=PNG)
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")


def test_each_collection_embeds_with_its_own_model(
    both: TestClient, tiny_artifact: Artifact, other_artifact: Artifact, png: Callable[..., bytes]
) -> None:
    both.put("/v1/collections/first")
    both.put("/v1/collections/second", json={"fingerprint": other_artifact.fingerprint})
    for name, artifact in (("first", tiny_artifact), ("second", other_artifact)):
        collection = f"/v1/collections/{name}"
        for seed in range(3):
            assert both.put(f"{collection}/points/{seed}", content=png(seed=seed), headers=PNG).status_code == 200
        found = both.post(f"{collection}/query", content=png(seed=1), headers=PNG, params={"with_vector": True})
        assert found.headers["x-model-fingerprint"] == artifact.fingerprint
        best = found.json()["result"][0]
        assert (best["id"], best["score"]) == ("1", pytest.approx(1, abs=1e-5))
        assert best["vector"] @ expected(artifact, png(seed=1)) == pytest.approx(1, abs=1e-5)
        stats = both.get(collection).json()
        assert (stats["fingerprint"], stats["model_loaded"]) == (artifact.fingerprint, True)
    wrong = {"vector": [1.0] + [0.0] * 31, "fingerprint": tiny_artifact.fingerprint}
    assert both.post("/v1/collections/second/query", json=wrong).status_code == 409


def test_the_same_model_twice_is_refused_and_nothing_stays_open(
    make_client: Callable[..., TestClient], tiny_artifact: Artifact, other_artifact: Artifact
) -> None:
    before = set(threading.enumerate())
    with pytest.raises(SettingsInvalid, match="name each model once"):
        make_client(artifact=[tiny_artifact.path, other_artifact.path, tiny_artifact.path])
    assert not set(threading.enumerate()) - before  # of those before, some may end meanwhile
    assert make_client(artifact=[tiny_artifact.path]).get("/readyz").status_code == 200, "the directory is free again"


def test_artifacts_are_named_in_the_environment_as_a_path_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DINODEX_DATA", str(tmp_path))
    monkeypatch.setenv("DINODEX_ARTIFACT", "/a:/b c")
    assert load_settings().artifact == (Path("/a"), Path("/b c"))
    assert load_settings(artifact=Path("/x:y")).artifact == (Path("/x:y"),)
    for nothing in (":", []):
        with pytest.raises(SettingsInvalid, match="DINODEX_ARTIFACT"):
            load_settings(artifact=nothing)
