"""What is asked of the files in `files/`: by the code that wrote them, whose answers were kept, and by the code of today.

Only through doors that stay: REST and the command line.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from starlette.testclient import TestClient

FILES = Path(__file__).with_name("files")
ANSWERS = Path(__file__).with_name("answers.json")
IMAGES_CHANGED_AT_S = (
    1_700_000_000  # a run is resumed only over images with the times that it began with; a checkout sets others
)
MACHINE = ("elapsed_s", "images_per_s", "data_wait", "memory_gib")  # columns of metrics.csv that no run repeats

PHOTOS, MANY = "/v1/collections/photos", "/v1/collections/many"
BRIGHT = {"must": [{"key": "brightness", "range": {"gte": 0.5}}]}
A_OR_TAGGED = {"should": [{"key": "label", "match": {"value": "a"}}, {"key": "tag", "match": {"any": ["odd", 7]}}]}
NOT_B = {"must_not": [{"key": "label", "match": {"value": "b"}}], "must": [{"exists": "tag"}]}
FILTERS = (BRIGHT, A_OR_TAGGED, NOT_B)


class Asked:
    """A caller with a key."""

    def __init__(self, web: TestClient, key: str, files: Path) -> None:
        self._web, self.files = web, files
        self.headers = {"X-API-Key": key}

    def get(self, path: str) -> Any:  # noqa: ANN401 - JSON
        answer = self._web.get(path, headers=self.headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
        answer = self._web.post(path, json=dict(body), headers=self.headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def thumbnail(self, point: str) -> str:
        """Return the hash of the picture that is kept for a point."""
        answer = self._web.get(f"{PHOTOS}/points/{point.replace('/', '%2F')}/thumbnail", headers=self.headers)
        assert answer.status_code == 200, answer.text
        return _hash(answer.content)

    def points(self, collection: str) -> list[dict[str, Any]]:
        """Return all points, of the vector a hash: it is read, not computed, so every bit of it is the same."""
        page = self.post(f"{collection}/points/scroll", {"limit": 1000, "with_vector": True})
        return [{**point, "vector": _hash(np.float32(point["vector"]).tobytes())} for point in page["result"]]

    def embedding(self, picture: str) -> list[float]:
        """Return the vector of a picture, computed anew."""
        content = (self.files / "pictures" / picture).read_bytes()
        headers = {**self.headers, "Content-Type": "image/png"}
        vector: list[float] = self._web.post("/v1/embed", content=content, headers=headers).json()["data"][0][
            "embedding"
        ]
        return vector


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def ask_library(asked: Asked, job: str) -> dict[str, Any]:
    """Ask a service on the data directory everything that it answers without a write; equal states give equal answers."""
    photos = asked.points(PHOTOS)
    pictures = [point["id"] for point in photos if point["id"].endswith(".png")]
    [clustering] = asked.get(f"{PHOTOS}/clusterings")["result"]
    clusters = f"{PHOTOS}/clusterings/{clustering['clustering']}"
    return {
        "collections": asked.get("/v1/collections"),
        "photos": photos,
        "many": asked.points(MANY),
        "embeddings": [asked.embedding(each) for each in pictures[:3]],
        "thumbnails": {point: asked.thumbnail(point) for point in pictures},
        "found by id": [asked.post(f"{PHOTOS}/query", {"id": each, "limit": 5}) for each in pictures],
        "found with filters": [
            asked.post(f"{PHOTOS}/query", {"id": pictures[0], "limit": 7, "filter": each}) for each in FILTERS
        ],
        "found among many": [
            asked.post(f"{MANY}/query", {"id": f"{number}", "limit": 10, **how})
            for number in range(100, 220, 20)
            for how in ({}, {"exact": True}, {"filter": BRIGHT})
        ],
        "counts": [asked.post(f"{PHOTOS}/points/count", {"filter": each}) for each in FILTERS],
        "votes": [asked.post(f"{PHOTOS}/classify", {"id": each, "k": 5}) for each in pictures[:5]],
        "leave one out": asked.post(f"{PHOTOS}/classify/evaluate", {"ks": [1, 5]}),
        "duplicates": asked.post(f"{MANY}/duplicates", {"threshold": 0.8}),
        "clustering": clustering,
        "clusters": asked.get(f"{clusters}/clusters"),
        "members": [asked.get(f"{clusters}/clusters/{n}/points") for n in range(clustering["clusters"])],
        "worst members": asked.get(f"{clusters}/outliers"),
        "job": asked.get(f"/v1/jobs/{job}"),
    }


def losses(run: Path) -> dict[str, dict[str, str]]:
    """Return by step what metrics.csv holds, to the last digit, but for what depends on the machine."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["step"]: {name: row[name] for name in row if name not in MACHINE} for row in rows}


def scores(file: Path) -> dict[str, Any]:
    """Return what `dinodex eval --json` wrote, but for the time that it took."""
    return {name: value for name, value in json.loads(file.read_text()).items() if name != "timing"}


def arithmetic() -> dict[str, str]:
    """Return what the last bit of a float may depend on."""
    return {"torch": torch.__version__, "processor": torch.backends.cpu.get_cpu_capability()}


def fingerprint(artifact: Path) -> str:
    """Return the fingerprint of an artifact."""
    return str(json.loads((artifact / "manifest.json").read_text())["fingerprint"])
