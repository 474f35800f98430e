"""Names of files that are not UTF-8, as old archives hold them, are names like any other."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from runs import KEYS, run

from backbone import load_artifact, named
from backbone.factory import build

CAFE = os.fsdecode(b"caf\xe9")
INIT = tuple(
    key for key in KEYS if key not in ("--backbone", "vit_tiny_patch4", "depth=1")
)  # the artifact brings its own


@pytest.fixture(scope="module")
def photos(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two class folders of twelve digits; a file and a folder have such a name."""
    folder = tmp_path_factory.mktemp("names") / CAFE
    for source, label in zip(sorted(digits.iterdir()), ("0", CAFE), strict=False):
        (folder / label).mkdir(parents=True)
        for image in sorted(source.glob("*.png"))[:12]:
            shutil.copy(image, folder / label)
    shutil.copy(image, folder / "0" / f"{CAFE}.png")
    return folder


@pytest.fixture(scope="module")
def trained(photos: Path) -> Path:
    """A finished run in a directory of such a name."""
    out, log = photos.parent / f"run-{CAFE}", photos.parent / "log"
    assert run(["train", str(photos), "--out", str(out), *KEYS, "max_steps=2"], log) == 0, log.read_text()
    return out


def test_u13_a_run_on_such_names_goes_on_and_names_what_changed(photos: Path, trained: Path, tmp_path: Path) -> None:
    assert load_artifact(trained / "artifact").manifest.training["images"] == 25
    log = tmp_path / "log"
    assert run(["train", str(photos), "--out", str(trained), "--resume"], log) == 0, log.read_text()
    copy = tmp_path / CAFE
    shutil.copytree(photos, copy)
    os.utime(copy / "0" / f"{CAFE}.png", (1, 1))
    assert run(["train", str(copy), "--out", str(trained), "--resume"], log) == 65
    assert b"1 changed: 0/caf\\udce9.png" in log.read_bytes()
    assert run(["train", str(copy), "--out", str(trained), "--resume", "--accept-data"], log) == 0
    assert b"Traceback" not in log.read_bytes()


def test_u13_a_run_that_starts_from_such_an_artifact_goes_on(photos: Path, trained: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    command = ["train", str(photos), "--out", str(out), "--init", str(trained / "artifact"), *INIT]
    assert run([*command, "max_steps=2"], log) == 0, log.read_text()
    assert run([*command, "max_steps=2", "--resume"], log) == 0, log.read_text()


def test_u13_an_evaluation_of_such_classes_writes_json_that_can_be_read(
    photos: Path, trained: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / f"{CAFE}.json", tmp_path / "log"
    command = ["eval", str(trained / "artifact"), "--train", str(photos), "--val", str(photos), "--no-cache"]
    assert run([*command, "--json", str(out)], log) == 0, log.read_text()
    assert json.loads(out.read_text())["counts"]["classes"] == 2


def test_u13_published_weights_of_such_a_name_are_exported(tmp_path: Path) -> None:
    weights, log = tmp_path / f"{CAFE}.pth", tmp_path / "log"
    torch.save(build(named("vit_small_patch14", 518)).state_dict(), weights)
    assert run(["export", str(weights), "--out", str(tmp_path / "artifact"), "--no-onnx"], log) == 0, log.read_text()
    assert load_artifact(tmp_path / "artifact").manifest.lineage.startswith("caf\\xe9.pth")
