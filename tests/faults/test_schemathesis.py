"""The document against the service: schemathesis makes requests from it, allowed and not, and checks every answer by it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
from faults.figures import FIGURES
from processes import service_process

from backbone import Artifact
from service.api.openapi_examples import PICTURE, bodies

HERE = Path(__file__).parent
ANIMALS = "/v1/collections/animals"
KEY = "a-key-so-that-authentication-is-checked"
SEED = int(os.environ.get("DINODEX_FAULTS_SEED", "1"))  # another one draws other requests
EXAMPLES = 50  # drawn for each operation, beside those that follow from the document
DELETING = "^DELETE|/points/delete$"  # these come last, for the others want something to be there
OPTIONS = {
    "checks": "all",
    "phases": "examples,coverage,fuzzing",
    "seed": SEED,
    "max-examples": EXAMPLES,
    "generation-database": "none",
    # Keys are presented in one header and judged by the check of authentication. Else a wrong one would be drawn for the other header,
    # and a right key in either header is enough.
    "generation-with-security-parameters": "false",
    "header": f"X-API-Key: {KEY}",
    "warnings": "off",
}


def fill(url: str) -> None:
    """Make the collection that the document's examples speak of, with a clustering and a picture."""
    with httpx.Client(base_url=url, headers={"X-API-Key": KEY}) as client:
        client.put(ANIMALS).raise_for_status()
        client.put(f"{ANIMALS}/points", json=bodies(32)["PutPointsBody"]["vectors"]).raise_for_status()
        point = f"{ANIMALS}/points/cat%2F1.png?replace=true"
        client.put(point, content=base64.b64decode(PICTURE), headers={"Content-Type": "image/png"}).raise_for_status()
        client.post(f"{ANIMALS}/clusterings", json={"k": 2}).raise_for_status()


def findings(url: str, folder: Path, which: str) -> tuple[int, int]:
    """Run schemathesis over the operations that `which` chooses; return how many there were, and how many requests it made."""
    report = folder / "report.json"
    options = {**OPTIONS, "report-json-path": report, f"{which}-name-regex": DELETING}
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "run"]
    command += [f"{url}/openapi.json", "--continue-on-failure", "--no-color"]
    command += [f"--{name}={value}" for name, value in options.items()]
    paths = os.pathsep.join([str(HERE.parent), *sys.path])
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_hooks.py"), "PYTHONPATH": paths}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["complete"]
    return found["operations"]["tested"], found["test_cases"]["generated"]


def test_schemathesis_finds_nothing(tiny_artifact: Artifact, tmp_path: Path) -> None:
    settings = {"api_key": KEY, "decode_workers": 1, "runtime": "openvino", "threads": 1}
    with service_process(tiny_artifact.path, tmp_path / "data", tmp_path / "log", **settings) as service:
        url = f"http://127.0.0.1:{service.port}"
        fill(url)
        counts = [findings(url, tmp_path, which) for which in ("exclude", "include")]
    operations, requests = (sum(each) for each in zip(*counts, strict=True))
    FIGURES.append(f"schemathesis: {operations} operations, {requests} requests, 0 findings (seed {SEED})")
