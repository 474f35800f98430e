"""Bad images over HTTP against dinodex, against infinity-emb where it can be installed, and against a plain FastAPI service.

python benchmarks/hostile.py --cache FOLDER
"""

from __future__ import annotations

import argparse
import base64
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch
from hostile_corpus import KINDS, ORACLE, Case, encoded, generated, is_picture, photograph, pillow_images
from machine import describe
from servers import server

from backbone import Architecture, Artifact, Preprocess, build
from backbone.artifact_writer import write_artifact
from dinodex.demo_service import serve_command

MiB, SIDE, POISONS = 2**20, 32, 100
SOON_S, HANG_S = 1.0, 10.0
GOOD = encoded(photograph(1234), "PNG")
STUCK = 5  # hangs in a row, after which nothing more is sent
HERE = Path(__file__).parent
Post = Callable[[httpx.Client, bytes, str], httpx.Response]


@dataclass
class Server:
    """A server under test: its process, and the most memory that its family had."""

    process: subprocess.Popen[bytes]
    url: str
    start_bytes: int = 0
    peak_bytes: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Keep the peak until the end."""
        while not self._ended.wait(0.05):
            self.peak_bytes = max(self.peak_bytes, resident_bytes(self.process.pid))


def main() -> None:
    """Print one table line for each server."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--cache", type=Path, required=True, help="keeps Pillow's source distribution and peers' environments"
    )
    cache: Path = parser.parse_args().cache.absolute()
    cache.mkdir(parents=True, exist_ok=True)
    print(describe())
    made = list(generated())
    cases = made + list(pillow_images(pillow_source(cache)))
    pictures = [is_picture(case.body) for case in cases]
    print(f"{len(made):,} generated cases, {len(cases) - len(made):,} files of Pillow's tests; oracle: {ORACLE}")
    print(
        f"{len(cases) - sum(pictures):,} are bad, {sum(pictures):,} pictures: {dict(Counter(case.family for case in cases))}"
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        artifact = tiny_artifact(root / "artifact")
        serve = serve_command(artifact.path, root / "data", port="{port}")
        with watched([*serve, "--runtime", "openvino"]) as running:
            attack("dinodex", running, raw, cases, pictures)
        plain = [sys.executable, str(HERE / "hostile_peers.py"), str(artifact.path / "model.onnx"), str(SIDE), "{port}"]
        with watched(plain) as running:
            attack("plain FastAPI", running, raw, cases, pictures)
        try:
            with watched(infinity(cache, root / "clip")) as running:
                attack("infinity-emb", running, data_uri, cases, pictures)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            print(f"infinity-emb was not measured: {error}")


def tiny_artifact(path: Path) -> Artifact:
    """Write a ViT of two narrow blocks with random weights."""
    torch.manual_seed(0)
    shape = {"image_size": SIDE, "patch_size": 8, "dim": 32, "depth": 2, "heads": 2, "pos_embed_resize": "exact"}
    network = build(Architecture("vit", shape))
    for parameter in network.parameters():  # LayerScale starts near zero: without this all images look alike
        torch.nn.init.normal_(parameter, std=0.3)
    preprocess = Preprocess.for_image_size(SIDE)
    return write_artifact(path, network, preprocess, licence="CC0-1.0", lineage="random weights", training={})


def pillow_source(cache: Path) -> Path:
    """Return Pillow's source distribution, fetched where the cache has none."""
    if not (found := sorted(cache.glob("pillow-*.tar.gz"))):
        fetch = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-binary",
            "pillow",
            "--no-deps",
            "-d",
            str(cache),
            "pillow",
        ]
        subprocess.run(fetch, check=True)
        found = sorted(cache.glob("pillow-*.tar.gz"))
    return found[-1]


def infinity(cache: Path, model: Path) -> list[str]:
    """Install infinity-emb in an environment of its own and write a tiny CLIP; the command that serves it."""
    binaries = cache / "infinity" / "bin"
    if not (binaries / "infinity_emb").exists():
        subprocess.run([sys.executable, "-m", "venv", str(binaries.parent)], check=True)
        # Newer transformers and click have dropped what its release uses; aiohttp is missing from its extras.
        packages = ["infinity-emb[server,torch,vision]==0.0.77", "transformers<4.50", "click<8.2", "aiohttp"]
        subprocess.run([str(binaries / "pip"), "install", "-q", *packages], check=True)
    subprocess.run([str(binaries / "python"), str(HERE / "hostile_clip.py"), str(model)], check=True)
    options = ["--engine", "torch", "--device", "cpu", "--no-bettertransformer", "--served-model-name", "clip"]
    return [str(binaries / "infinity_emb"), "v2", "--model-id", str(model), *options, "--port", "{port}"]


def raw(client: httpx.Client, body: bytes, content_type: str) -> httpx.Response:
    """Send the bytes as they are."""
    return client.post("/v1/embed", content=body, headers={"content-type": content_type})


def data_uri(client: httpx.Client, body: bytes, content_type: str) -> httpx.Response:
    """Send them as infinity wants images: a data URI in JSON."""
    uri = f"data:{content_type};base64,{base64.b64encode(body).decode()}"
    return client.post("/embeddings", json={"model": "clip", "modality": "image", "input": [uri]})


def attack(name: str, running: Server, post: Post, cases: list[Case], pictures: list[bool]) -> None:
    """Send every case, then a good image after each of many poison images; print what came of it."""
    bad = pictures.count(False)
    clean, wrongly_taken, in_a_row, outcomes = 0, 0, 0, Counter[str]()
    poisons: list[Case] = []
    slowest = 0.0
    # A connection for each request: uvicorn closes the one on which an application raised, and the next request must not pay for that.
    alone = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=running.url, timeout=HANG_S, limits=alone) as client:
        first = post(client, GOOD, KINDS["PNG"])
        if first.status_code != 200:
            raise RuntimeError(f"a good image is answered {first.status_code}: {first.text[:300]}")
        before = vector(first)
        running.start_bytes = resident_bytes(running.process.pid)
        for case, picture in zip(cases, pictures, strict=True):
            begun = time.monotonic()
            outcome = status_of(client, post, case, running)
            took = time.monotonic() - begun
            slowest = max(slowest, took)
            outcomes[outcome] += 1
            if not picture:
                clean += outcome == "4xx" and took < SOON_S
                wrongly_taken += outcome == "200"
                poisons.append(case)
            in_a_row = in_a_row + 1 if outcome == "hang" else 0
            if outcome == "crash" or in_a_row == STUCK:
                print(f"{name} answers no more after {outcomes.total()} of {len(cases)} cases")
                break
        same = 0
        for poison in poisons[:: max(len(poisons) // POISONS, 1)][:POISONS]:
            if in_a_row == STUCK:
                break
            outcome = status_of(client, post, poison, running)
            in_a_row = in_a_row + 1 if outcome == "hang" else 0
            try:
                same += vector(post(client, GOOD, KINDS["PNG"])) == before
            except (httpx.HTTPError, KeyError, ValueError):
                continue  # no answer, or none with a vector: not the same
    print(
        f"{name:14} bad answered 4xx within {SOON_S:g} s {clean}/{bad} ({clean / bad:.2%}), bad taken as pictures {wrongly_taken}, "
        f"crashes {outcomes['crash']}, hangs {outcomes['hang']}, cut off {outcomes['cut off']}, 5xx {outcomes['5xx']}, "
        f"slowest {slowest:.2f} s, same vector after a poison {same}/{POISONS}, "
        f"peak {running.peak_bytes / MiB:,.0f} MiB ({(running.peak_bytes - running.start_bytes) / MiB:,.0f} over a good one's)"
        f"{ceiling(running.url)}; {dict(outcomes)}",
        flush=True,
    )


def status_of(client: httpx.Client, post: Post, case: Case, running: Server) -> str:
    """Return what came of one case: 200, 4xx, 5xx, hang, crash, or cut off."""
    try:
        status = post(client, case.body, case.content_type).status_code
    except httpx.TimeoutException:
        return "hang"
    except httpx.TransportError:
        return "cut off" if running.process.poll() is None else "crash"
    return "200" if status == 200 else f"{status // 100}xx"


def vector(answer: httpx.Response) -> list[float]:
    """Return the vector of an answer in either of two shapes."""
    found: dict[str, Any] = answer.json()
    values: list[float] = found["embedding"] if "embedding" in found else found["data"][0]["embedding"]
    return values


def ceiling(url: str) -> str:
    """Return what the server says of its own most memory."""
    try:
        metrics = httpx.get(f"{url}/metrics").text
    except httpx.HTTPError:  # it answers nothing any more
        return ""
    found = re.search(r"^\w*memory_ceiling_bytes (\S+)$", metrics, re.MULTILINE)
    return f", its ceiling {float(found[1]) / MiB:,.0f} MiB" if found else ""


@contextmanager
def watched(command: list[str]) -> Iterator[Server]:
    """Run a server, and keep the most memory that its family has."""
    with server(command) as (process, port):
        running = Server(process, f"http://127.0.0.1:{port}")
        watcher = threading.Thread(target=running.watch)
        watcher.start()
        try:
            yield running
        finally:
            running._ended.set()
            watcher.join()


def resident_bytes(process: int) -> int:
    """Return the memory of a process and all that it started, shared pages counted once."""
    total, family = 0, [process]
    for number in family:
        folder = Path(f"/proc/{number}")
        try:
            total += sum(
                int(kb) * 1024 for kb in re.findall(r"^Pss: +(\d+) kB$", (folder / "smaps_rollup").read_text(), re.M)
            )
            family += [
                int(child) for task in folder.glob("task/*") for child in (task / "children").read_text().split()
            ]
        except OSError:  # it has just ended
            continue
    return total


if __name__ == "__main__":
    main()
