"""What one would write without dinodex: Pillow and the artifact's ONNX in OpenVINO behind one route of FastAPI.

python benchmarks/hostile_peers.py MODEL_ONNX SIDE PORT
"""

from __future__ import annotations

import io
import sys

import numpy as np
import openvino
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from PIL import Image, UnidentifiedImageError
from starlette.concurrency import run_in_threadpool

model = openvino.Core().compile_model(sys.argv[1], "CPU")
side = int(sys.argv[2])
app = FastAPI()


def embed_one(body: bytes) -> list[float]:
    """Decode, resize and embed one image."""
    try:
        image = Image.open(io.BytesIO(body)).convert("RGB").resize((side, side))
    except UnidentifiedImageError as error:
        raise HTTPException(422, "no image") from error
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    vector: list[float] = model.create_infer_request().infer([pixels])[model.output(0)][0].tolist()
    return vector


@app.post("/v1/embed")
async def embed(request: Request) -> dict[str, list[float]]:
    """Answer the raw body's vector."""
    return {"embedding": await run_in_threadpool(embed_one, await request.body())}


uvicorn.run(app, port=int(sys.argv[3]), log_level="error")
