"""Writes `files/` and `answers.json`: a data directory, a run and its artifact, by the code before service/ was divided into rooms.

It ran once, in a checkout of commit 6ded858 of that time, and names the modules of that code; what it wrote stays as it is, because
what it stands for is what people have on their disks. From the top of that checkout:

    PYTHONPATH=TODAY/tests python -m compat.make
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from compat.questions import (
    ANSWERS,
    FILES,
    IMAGES_CHANGED_AT_S,
    MANY,
    PHOTOS,
    Asked,
    arithmetic,
    ask_library,
    fingerprint,
    losses,
    scores,
)
from pictures import picture
from rich.console import Console
from starlette.testclient import TestClient

from backbone import Architecture, Preprocess, build
from backbone.artifact_writer import write_artifact
from dinodex.cli import main as cli
from service.app import create_app
from service.settings import load_settings
from training.config import TrainingConfig
from training.progress import Reporter
from training.resume import Resume
from training.run import train

VIT = {"image_size": 16, "patch_size": 8, "dim": 16, "depth": 1, "heads": 2, "pos_embed_resize": "exact"}
STEPS, STOPPED_AFTER = 6, 4
KEYS = (
    "init=network",
    "recipe=dinov2",
    "koleo_weight=0",
    f"max_steps={STEPS}",
    "image_size=16",
    "local_size=8",
    "local_views=1",
)
KEYS += (
    "batch_size=4",
    "prototypes=16",
    "head_hidden=16",
    "head_bottleneck=16",
    "knn_images=8",
    "workers=0",
    "devices=1",
    "precision=32",
)
KEYS += ("log_every=1", "drop_path=0.3", "checkpoint_every_s=1000", "keep_checkpoints=1", "onnx=false", "held_out=0.2")
# With these a few points get what only many have: a main segment, and an approximate index over it.
GROWN = {
    "service.vectors.SEGMENT_BYTES": 640,
    "service.planner.BUILD_POINTS": 40,
    "service.planner.EXTEND_POINTS": 60,
    "service.planner.EXACT_POINTS": 130,
}
# And with this so few are searched by the index, which the test wants of today's code, too.
ASKED = {"service.approximate.VECTORS_PER_EF": 1}
POINTS, TAIL = 200, 20  # of the collection with the index: in it, and beside it
TAGS = ("odd", "even", 7, None)


def main() -> None:
    """Write everything anew, in a directory whose name stands nowhere in it: all paths are relative."""
    shutil.rmtree(FILES, ignore_errors=True)
    FILES.mkdir()
    os.chdir(FILES)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    make_pictures()
    answers = {"run": make_run()}
    dinodex("export", "run", "--out", "artifact", "--no-onnx")
    answers["fingerprint"] = fingerprint(Path("artifact"))
    index("pictures", "--collection", "photos", "--artifact", "artifact", "--data", "library")
    scopes = ("read", "write")
    answers["keys"] = {scope: dinodex("keys", "add", scope, "--scope", scope, "--data", "library") for scope in scopes}
    with served(GROWN) as web:
        answers["job"] = fill(web, answers["keys"]["write"])
    copied = dinodex("backup", "--data", "library", "--out", "copy")
    answers["integrity"] = [line for line in copied.splitlines() if line.endswith(" points")]
    Path("copy").unlink()
    with served(ASKED) as web:
        answers["library"] = ask_library(Asked(web, answers["keys"]["read"], FILES), answers["job"])
    dinodex("eval", "artifact", "--train", "pictures", "--val", "pictures", "--no-cache", "--json", "scores.json")
    answers["scores"] = scores(Path("scores.json"))
    Path("scores.json").unlink()
    answers["computed with"] = arithmetic()
    for name in ("network", "run/tensorboard"):
        shutil.rmtree(name)
    ANSWERS.write_text(json.dumps(answers, separators=(",", ":")) + "\n")


def dinodex(*arguments: str) -> str:
    """Run a command and return what it prints."""
    command = [sys.executable, "-m", "dinodex", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def index(*arguments: str) -> None:
    """Run `dinodex index`, for which this directory is called /photos: a point remembers the whole path of its file."""
    with (
        patch.object(sys, "argv", ["dinodex", "index", *arguments]),
        patch.object(Path, "absolute", lambda path: Path("/photos", path)),
        suppress(SystemExit),
    ):
        cli()


def make_pictures() -> None:
    for number in range(24):
        path = Path("pictures", "abc"[number % 3], f"{number:02d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(24, 20, number).save(path)
        os.utime(path, (IMAGES_CHANGED_AT_S, IMAGES_CHANGED_AT_S))


class Stopping(Reporter):
    """Asks the run to stop after a step, as an operator does."""

    def show(self, progress: float, step: int, values: Mapping[str, float | int | None]) -> None:
        if step == STOPPED_AFTER - 1:  # the wish is granted after the step that has begun
            os.kill(os.getpid(), signal.SIGTERM)


def make_run() -> dict[str, Any]:
    """Train until it is stopped, and go on with a copy to its end; return what that comes to."""
    torch.manual_seed(0)
    network = build(Architecture("vit", VIT))
    for parameter in network.parameters():  # LayerScale starts near zero: without this all images look alike
        torch.nn.init.normal_(parameter, std=0.3)
    preprocess = Preprocess.for_image_size(16)
    write_artifact(
        Path("network"), network, preprocess, licence="Apache-2.0", lineage="random", training={}, onnx=False
    )
    quiet = Console(quiet=True)
    result = train(Path("pictures"), Path("run"), TrainingConfig.load(None, KEYS), Stopping(quiet))
    assert (result.steps, result.interrupted) == (STOPPED_AFTER, True)
    resumed = shutil.copytree("run", Path("resumed"))
    train(Path("pictures"), resumed, TrainingConfig(), Reporter(quiet), Resume())
    found = {
        "stopped_after": STOPPED_AFTER,
        "losses": losses(resumed),
        "fingerprint": fingerprint(resumed / "artifact"),
    }
    shutil.rmtree(resumed)
    return found


@contextmanager
def served(constants: Mapping[str, int]) -> Iterator[TestClient]:
    """Serve the library with some constants changed."""
    settings = load_settings(
        artifact="artifact", data="library", runtime="torch", precision="fp32", threads=1, decode_workers=1
    )
    with ExitStack() as stack:
        for name, value in constants.items():
            stack.enter_context(patch(name, value))
        yield stack.enter_context(TestClient(create_app(settings)))


def fill(web: TestClient, key: str) -> str:
    """Put points of every sort, and return the job that clustered some of them."""
    headers, draw = {"X-API-Key": key}, random.Random(0)

    def send(method: str, path: str, **body: Any) -> Any:  # noqa: ANN401 - JSON
        answer = web.request(method, path, headers=headers, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def points(start: int, end: int) -> list[dict[str, Any]]:
        vectors = np.random.default_rng(start).normal(size=(end - start, VIT["dim"])).round(3).tolist()
        payloads = [{"brightness": round(draw.random(), 3), "tag": draw.choice(TAGS)} for _ in vectors]
        return [
            {"id": str(number), "vector": vector, "label": draw.choice("abc"), "payload": payload}
            for number, vector, payload in zip(range(start, end), vectors, payloads, strict=True)
        ]

    send("PUT", f"{PHOTOS}/points", points=points(0, 100))
    for n, point in enumerate(send("POST", f"{PHOTOS}/points/scroll", limit=1000)["result"]):
        if point["id"].endswith(".png"):
            path = f"{PHOTOS}/points/{point['id'].replace('/', '%2F')}"
            send("PATCH", path, payload={"brightness": n / 124, "tag": TAGS[n % 4], "ä": ["nested", {"n": n}]})
    made = web.post(f"{PHOTOS}/clusterings", json={"k": 4}, params={"wait_s": 0}, headers=headers).json()
    while (job := web.get(f"/v1/jobs/{made['job']}", headers=headers).json())["state"] != "done":
        time.sleep(0.05)
    send("PATCH", f"{PHOTOS}/clusterings/{job['result']['clustering']}/clusters/1", name="the second, ü")
    send("PUT", MANY, keep="none")
    send("PUT", f"{MANY}/points", points=points(0, POINTS))
    while send("GET", MANY)["building"] or send("GET", MANY)["index"] == "exact":
        time.sleep(0.05)
    send("POST", f"{MANY}/points/delete", ids=[str(number) for number in range(0, 90, 7)])  # tombstones
    send("PUT", f"{MANY}/points", points=points(POINTS, POINTS + TAIL))
    send("PUT", f"{MANY}/points", points=[{**points(0, 1)[0], "id": "61"}], replace=True)
    return str(made["job"])


if __name__ == "__main__":
    main()
