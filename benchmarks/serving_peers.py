"""What one would write without dinodex, around the same network: FastAPI alone, and LitServe with its batches.

python benchmarks/serving_peers.py fastapi|litserve ARTIFACT PORT
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import litserve
import torch
import uvicorn
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

from backbone import load_artifact

BATCH, WAIT_S = 32, 0.01


def serve_fastapi(artifact_path: Path, port: int) -> None:
    """Decode and embed each image in the request's own thread."""
    artifact = load_artifact(artifact_path)
    app = FastAPI()

    def embed_one(image: bytes) -> list[float]:
        vector: list[float] = artifact.embed(torch.from_numpy(artifact.preprocess(image)[None]))[0].tolist()
        return vector

    @app.post("/v1/embed")
    async def embed(request: Request) -> dict[str, Any]:
        return {"embedding": await run_in_threadpool(embed_one, await request.body())}

    uvicorn.run(app, port=port, log_level="warning")


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Decodes in its worker, and embeds what has gathered there; images come in base64, since LitServe hands on JSON."""

    def __init__(self, artifact_path: Path) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=WAIT_S, api_path="/v1/embed")
        self._path = artifact_path

    def setup(self, device: str) -> None:
        """Load the network in the worker."""
        self._artifact = load_artifact(self._path)

    def decode_request(self, request: dict[str, str]) -> torch.Tensor:
        """Return the pixels [3, H, W] of one request."""
        return torch.from_numpy(self._artifact.preprocess(base64.b64decode(request["image"])))

    def batch(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """Return them together, [B, 3, H, W]."""
        return torch.stack(inputs)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Return the vectors [B, D]."""
        return self._artifact.embed(x)

    def unbatch(self, output: torch.Tensor) -> list[torch.Tensor]:
        """Return them one by one."""
        return list(output)

    def encode_response(self, output: torch.Tensor) -> dict[str, Any]:
        """Return the answer of one request."""
        return {"embedding": output.tolist()}


def serve_litserve(artifact_path: Path, port: int) -> None:
    """Serve it with one worker."""
    server = litserve.LitServer(Api(artifact_path), accelerator="cpu")
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    serve = {"fastapi": serve_fastapi, "litserve": serve_litserve}[sys.argv[1]]
    serve(Path(sys.argv[2]), int(sys.argv[3]))
