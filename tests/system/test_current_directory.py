"""Commands that stand in a folder with Python files of a stranger: they do their work, and run none of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile_folder import hostile_folder
from runs import KEYS

from backbone import Artifact

Run = Callable[..., str]

# As pip writes it: the directory that it lies in comes first, and not the current one.
CONSOLE_SCRIPT = "import sys\nfrom dinodex.cli import main\nsys.exit(main())\n"
# `demo` starts its service so, and asks it; here without what the demo trains first.
SERVICE = """import sys
from pathlib import Path
from dinodex.demo_service import running_service

artifact, data, image = map(Path, sys.argv[1:])
with running_service(artifact, data, threads="1", decode_workers="1") as client:
    client._connection.send("PUT", "/v1/collections/c")
    photos = client.collection("c")
    photos.put_many([{"id": f"{number}", "vector": [number, *[1] * 31]} for number in range(20)])
    photos.cluster(method="hdbscan", min_size=5)
    print(client.embed(image).shape)
"""


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Make the folder to stand in."""
    folder = tmp_path / "stranger"
    hostile_folder(folder)
    return folder


def ask(folder: Path, script: Path, *arguments: object, **environment: str) -> str:
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=240
    )
    assert not (folder / "was-run").exists(), (folder / "was-run").read_text()
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_u08_python_m_dinodex_takes_its_own_modules(tmp_path: Path) -> None:
    """But for those that Python and its `runpy` have imported from there before any line of ours."""
    hostile_folder(tmp_path, ("random", "secrets", "service", "backbone", "training", "numpy", "PIL", "typer", "httpx"))
    done = subprocess.run(
        [sys.executable, "-m", "dinodex", "keys", "list", "--data", tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not (tmp_path / "was-run").exists()
    assert done.returncode == 0, done.stderr


@pytest.fixture
def console_script(tmp_path: Path) -> Path:
    """Write the console script `dinodex`."""
    path = tmp_path / "bin" / "dinodex"
    path.parent.mkdir()
    path.write_text(CONSOLE_SCRIPT)
    return path


def test_u08_index_stands_beside_files_of_a_stranger(
    hostile: Path, console_script: Path, digits: Path, tmp_path: Path, tiny_artifact: Artifact
) -> None:
    into = ["--collection", "c", "--artifact", tiny_artifact.path, "--data", tmp_path / "data"]
    said = ask(hostile, console_script, "index", digits, *into, DINODEX_RUNTIME="torch")
    assert "300 created, 0 replaced, 0 unchanged, 0 refused" in said


def test_u08_a_service_of_the_demo_stands_beside_files_of_a_stranger(
    hostile: Path, digits: Path, tmp_path: Path, tiny_artifact: Artifact
) -> None:
    script = tmp_path / "service.script"
    script.write_text(SERVICE)
    said = ask(hostile, script, tiny_artifact.path, tmp_path / "data", next(digits.rglob("*.png")))
    assert "(1, 32)" in said


def test_u08_training_with_loader_processes_stands_beside_files_of_a_stranger(
    hostile: Path, console_script: Path, digits: Path, tmp_path: Path
) -> None:
    keys = [key for key in KEYS if not key.startswith("workers=")]
    ask(hostile, console_script, "train", digits, *keys, "workers=1", "max_steps=2", "--out", tmp_path / "run")
    assert (tmp_path / "run" / "artifact" / "manifest.json").exists()
