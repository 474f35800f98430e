"""The embedding service beside what users would pick instead: the network alone, and over HTTP. ViT-S/14 at 224, random weights.

python benchmarks/serving.py [--seconds S] [--compiled]
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from machine import describe, median_seconds
from PIL import Image
from servers import server
from transformers import Dinov2Config, Dinov2Model

from backbone import Artifact, Preprocess, build, named
from backbone.artifact_writer import write_artifact
from dinodex.demo_service import serve_command
from service.embedding.runtime import ForwardPass, Precision
from service.embedding.runtime_choice import choose_runtime
from service.settings import RuntimeName

IMAGE_SIZE, PATCH, BATCHES, CLIENTS = 224, 14, (8, 32), (1, 8, 32)
ROUNDS = 3
CORES = len(os.sched_getaffinity(0))
GOAL_OF_PEERS, GOAL_OF_LIMIT, GOAL_OF_PROCESS = 4.8, 0.75, 0.9
HERE = Path(__file__).parent


def main() -> None:
    """Print each figure with its ratio to the peers of the same run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=12, help="of each load")
    parser.add_argument("--compiled", action="store_true", help="also torch-compile, which takes a minute to compile")
    options = parser.parse_args()
    torch.set_num_threads(CORES)
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        artifact = make_artifact(root / "artifact")
        network_alone(artifact, options.compiled)
        over_http(artifact, root, options.seconds)


def make_artifact(path: Path) -> Artifact:
    """Write a ViT-S/14 with random weights."""
    torch.manual_seed(0)
    network = build(named("vit_small_patch14", IMAGE_SIZE))
    preprocess = Preprocess.for_image_size(IMAGE_SIZE)
    return write_artifact(path, network, preprocess, licence="CC0-1.0", lineage="random weights", training={})


def network_alone(artifact: Artifact, compiled: bool) -> None:
    """Print images a second of every runtime and peer, and the limit that the machine's matrix products set."""
    runs: dict[str, Callable[[np.ndarray], object]] = {}
    wanted: list[tuple[RuntimeName, Precision]] = [(n, p) for n in ("openvino", "torch") for p in ("bf16", "fp32")]  # type: ignore[misc]
    for name, precision in [*wanted, *([("torch-compile", "bf16")] if compiled else [])]:
        run = choose_runtime(artifact, name, precision, CORES).runtime.run
        runs[f"dinodex {name} {precision}"] = partial(computed, run, False)  # as an embedding needs it
        if precision == "bf16":
            runs[f"dinodex {name} {precision}, all tokens"] = partial(computed, run, True)
    runs["transformers eager fp32"] = eager(
        Dinov2Model(
            Dinov2Config(
                hidden_size=384,
                num_attention_heads=6,
                image_size=IMAGE_SIZE,
                patch_size=PATCH,
                attn_implementation="sdpa",
            )
        )
    )
    runs["timm eager fp32"] = eager(timm.create_model("vit_small_patch14_dinov2", img_size=IMAGE_SIZE, num_classes=0))
    rates: dict[str, list[float]] = {name: [] for name in (*runs, "limit fp32", "limit bf16")}
    for _ in range(ROUNDS):  # in turns, because the machine's other work comes and goes
        for batch in BATCHES:
            pixels = np.random.default_rng(0).normal(size=(batch, 3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32)
            for name, run in runs.items():
                rates[name].append(batch / median_seconds(lambda run=run, pixels=pixels: run(pixels), 2))  # type: ignore[misc]
        for name, dtype in (("limit fp32", torch.float32), ("limit bf16", torch.bfloat16)):
            rates[name].append(product_rate(dtype) / flop_of_an_image())
    best = {name: statistics.median(found) for name, found in rates.items()}
    print(
        f"\nthe network alone, batches of {BATCHES}, median of {ROUNDS} rounds; {flop_of_an_image() / 1e9:.1f} GFLOP an image"
    )
    for name, rate in best.items():
        print(f"  {name:36} {rate:6.1f} images/s")
    ours = best["dinodex openvino bf16"]
    for peer in ("transformers eager fp32", "timm eager fp32"):
        print(f"openvino bf16 / {peer}: {ours / best[peer]:.2f} (goal {GOAL_OF_PEERS})")
    print(
        f"openvino bf16 / limit of matrix products in bf16: {ours / best['limit bf16']:.2f} (goal {GOAL_OF_LIMIT})",
        flush=True,
    )


def computed(run: ForwardPass, patches: bool, pixels: np.ndarray) -> object:
    """Compute pixels with or without the patch tokens."""
    return run(pixels, patches)


def eager(model: torch.nn.Module) -> Callable[[np.ndarray], object]:
    """Return a network of another library as a function of pixels."""
    model.eval()

    def run(pixels: np.ndarray) -> object:
        with torch.inference_mode():
            return model(torch.from_numpy(pixels))

    return run


def flop_of_an_image() -> float:
    """Count multiplications and additions of a ViT-S/14: products of the blocks, attention, and the patches."""
    tokens, width, blocks = (IMAGE_SIZE // PATCH) ** 2 + 1, 384, 12
    of_a_block = 24 * tokens * width**2 + 4 * tokens**2 * width
    return blocks * of_a_block + 2 * (tokens - 1) * 3 * PATCH**2 * width


def product_rate(dtype: torch.dtype) -> float:
    """Return FLOP a second of a product of the shape of a batch's widest layer."""
    x, y = torch.ones(32 * 257, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)
    return 2 * x.shape[0] * 384 * 1536 / median_seconds(lambda: x @ y, 9)


def over_http(artifact: Artifact, root: Path, seconds: float) -> None:
    """Print images a second and latencies over HTTP, beside the same bytes in process and beside the peers."""
    photo, as_json = root / "photo.jpg", root / "photo.json"
    photo.write_bytes(photograph())
    as_json.write_text(json.dumps({"image": base64.b64encode(photo.read_bytes()).decode()}))
    print(
        f"\nover HTTP: JPEG of 500 x 375, {len(photo.read_bytes()):,} bytes; {seconds:g} s each; the generator's CPU time beside it"
    )
    serve = serve_command(artifact.path, root / "data", port="{port}")
    peers = [sys.executable, str(HERE / "serving_peers.py")]
    in_process = [process_rate(artifact, photo.read_bytes(), seconds)]
    with server(serve) as (_, port):
        load(port, photo, 8, 0, 3)  # until it is warm
        ours = {clients: load(port, photo, clients, 0, seconds, f"dinodex, {clients} clients") for clients in CLIENTS}
        for share in (0.5, 0.8):
            load(port, photo, 0, share * ours[32], seconds, f"dinodex, open loop at {share:.0%} of that")
    in_process.append(process_rate(artifact, photo.read_bytes(), seconds))
    for name, body in (("fastapi", photo), ("litserve", as_json)):
        with server([*peers, name, str(artifact.path), "{port}"]) as (_, port):
            load(port, body, 8, 0, 3)
            for clients in CLIENTS:
                rate = load(port, body, clients, 0, seconds, f"{name}, {clients} clients")
                print(f"    dinodex / {name}: {ours[clients] / rate:.2f}")
    inside = statistics.mean(in_process)
    print(
        f"in process, decode, preprocess and network one after the other, {BATCHES[-1]} at a time: {inside:.1f} images/s"
    )
    print(
        f"dinodex over HTTP with 32 clients / in process: {ours[32] / inside:.2f} (goal {GOAL_OF_PROCESS})", flush=True
    )


def photograph() -> bytes:
    """Return a JPEG as large as a web page's."""
    coarse = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def process_rate(artifact: Artifact, image: bytes, seconds: float) -> float:
    """Return images a second of the same bytes through the artifact's preprocess and the runtime that the service takes."""
    run = choose_runtime(artifact, threads=CORES).runtime.run
    run(np.zeros((BATCHES[-1], 3, IMAGE_SIZE, IMAGE_SIZE), np.float32), False)
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        run(np.stack([artifact.preprocess(image) for _ in range(BATCHES[-1])]), False)
        done += BATCHES[-1]
    return done / (time.perf_counter() - begun)


def load(port: int, body: Path, clients: int, per_s: float, seconds: float, name: str = "") -> float:
    """Put load on a server, print what came of it under `name`, and return images a second, had the generator cost nothing."""
    command = [
        sys.executable,
        str(HERE / "serving_load.py"),
        str(port),
        str(body),
        str(clients),
        str(per_s),
        str(seconds),
    ]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    rate = float(found["per_s"])
    corrected = rate if per_s else rate / (1 - found["cpu_s"] / (found["wall_s"] * CORES))
    if name:
        latencies = ", ".join(f"p{share} {found[f'p{share}_ms']:,.0f}" for share in (50, 95, 99))
        print(
            f"  {name:32} {rate:6.1f} images/s (less the generator's {found['cpu_s']:.1f} s: {corrected:.1f}); {latencies} ms; "
            f"{found['failed']} failed",
            flush=True,
        )
    return corrected


if __name__ == "__main__":
    main()
