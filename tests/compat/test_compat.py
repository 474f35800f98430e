"""What the code before service/ had rooms left on disk: today's code answers from it as that code did.

`make.py` wrote both, `files/` and the answers in `answers.json`. What is read is compared to the last bit; what is computed, to the
last where torch and the kind of processor are those of that time, and else to a few parts in a hundred thousand.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
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

with warnings.catch_warnings():
    # It wants httpx2, which is httpx under another name; the client that dinodex ships stands on httpx itself.
    warnings.simplefilter("ignore", UserWarning)
    from starlette.testclient import TestClient

from dinodex.cli import main

TOLERANCE = 2e-5
THEN: dict[str, Any] = json.loads(ANSWERS.read_text())
SAME_ARITHMETIC = THEN["computed with"] == arithmetic()

Run = Callable[..., str]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Copy the files to where they may change."""
    copy = shutil.copytree(FILES, tmp_path / "files")
    for path in (copy / "pictures").rglob("*.png"):
        os.utime(path, (IMAGES_CHANGED_AT_S, IMAGES_CHANGED_AT_S))
    return copy


@pytest.fixture
def dinodex(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command, which must succeed, and return what it prints."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["dinodex", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert not ended.value.code, printed.err
        return printed.out

    return run


@pytest.fixture
def web(files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """Serve the library with the artifact; its small collections are searched by their index as large ones are."""
    from service.app import create_app
    from service.settings import load_settings

    for name in [name for name in os.environ if name.startswith("DINODEX_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("service.index.approximate.VECTORS_PER_EF", 1)
    settings = load_settings(
        artifact=files / "artifact",
        data=files / "library",
        runtime="torch",
        precision="fp32",
        threads=1,
        decode_workers=1,
    )
    with TestClient(create_app(settings)) as started:
        yield started


def differences(now: Any, then: Any, at: str = "") -> list[str]:  # noqa: ANN401 - JSON
    """Return where two answers differ: their numbers by more than the tolerance, all else at all."""
    if isinstance(now, dict) and isinstance(then, dict) and now.keys() == then.keys():
        return [line for key in now for line in differences(now[key], then[key], f"{at}/{key}")]
    if isinstance(now, list) and isinstance(then, list) and len(now) == len(then):
        return [line for n, pair in enumerate(zip(now, then, strict=True)) for line in differences(*pair, f"{at}/{n}")]
    if isinstance(now, float) and isinstance(then, float):
        same = math.isclose(now, then, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    else:
        same = now == then
    return [] if same else [f"{at}: {now!r}, and was {then!r}"]


def contents(folder: Path) -> dict[Path, bytes]:
    """Return the files below a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_library_answers_as_it_did_from_the_index_that_was_there(files: Path, web: TestClient) -> None:
    now = ask_library(Asked(web, THEN["keys"]["read"], files), THEN["job"])
    assert differences(now, THEN["library"]) == []
    # One that was refused would be gone, and all its points would be counted in the tail above.
    assert contents(files / "library/index") == contents(FILES / "library/index")


def test_keys_open_what_they_opened_and_a_point_joins_what_was_there(files: Path, web: TestClient) -> None:
    read, write = ({"X-API-Key": THEN["keys"][scope]} for scope in ("read", "write"))
    picture = (files / "pictures/a/00.png").read_bytes()
    path, image = f"{PHOTOS}/points/new", {"Content-Type": "image/png"}
    assert web.put(path, content=picture, headers={**image, "X-API-Key": "another"}).status_code == 401
    assert web.put(path, content=picture, headers={**image, **read}).status_code == 403
    assert web.put(path, content=picture, headers={**image, **write}).json()["status"] == "created"
    found = web.post(f"{PHOTOS}/query", json={"id": "new", "limit": 1}, headers=read).json()["result"]
    assert (found[0]["id"], round(found[0]["score"], 4)) == ("a/00.png", 1.0)
    path = f"{PHOTOS}/clusterings/{THEN['library']['clustering']['clustering']}/clusters"
    sizes = [cluster["size"] for cluster in web.get(path, headers=read).json()["result"]]
    assert sum(sizes) == THEN["library"]["clustering"]["points"] + 1
    assert web.get(MANY, headers=read).json()["count"] == len(THEN["library"]["many"])


def test_a_backup_holds_all_of_it_and_an_index_job_finds_nothing_new(
    files: Path, dinodex: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    copied = dinodex("backup", "--data", "library", "--out", "copy")
    assert copied.splitlines()[:-1] == THEN["integrity"]
    dinodex("restore", "copy", "--data", "restored")
    where = ("--collection", "photos", "--artifact", "artifact")
    for data in ("library", "restored"):
        said = dinodex("index", "pictures", *where, "--data", data)
        assert "0 created, 0 replaced, 24 unchanged, 0 refused" in said
    listed = json.loads(dinodex("keys", "list", "--data", "library", "--json"))
    assert [(key["name"], key["scope"], key["expired"]) for key in listed] == [
        ("read", "read", False),
        ("write", "write", False),
    ]


def test_a_run_is_exported_and_goes_on_to_the_same_end(
    files: Path, dinodex: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    dinodex("export", "run", "--out", "exported", "--no-onnx")
    assert fingerprint(Path("exported")) == THEN["fingerprint"] == fingerprint(Path("artifact"))
    dinodex("train", "pictures", "--out", "run", "--resume")
    now, then = losses(Path("run")), THEN["run"]["losses"]
    last = THEN["run"]["stopped_after"]
    assert list(now) == list(then)
    assert [step for step in now if int(step) > last] == [str(last + 1), str(last + 2)]
    for step, row in then.items():
        if SAME_ARITHMETIC or int(step) <= last:
            assert now[step] == row
        else:
            for column, value in row.items():
                assert now[step][column] == value or math.isclose(
                    float(now[step][column]), float(value), rel_tol=TOLERANCE
                ), f"{column} of step {step}"
    if SAME_ARITHMETIC:
        assert fingerprint(Path("run/artifact")) == THEN["run"]["fingerprint"]


def test_an_artifact_scores_as_it_did(files: Path, dinodex: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    dinodex("eval", "artifact", "--train", "pictures", "--val", "pictures", "--no-cache", "--json", "scores.json")
    now, then = scores(Path("scores.json")), THEN["scores"]
    alike = then.keys() if SAME_ARITHMETIC else {"fingerprint", "counts", "notes"}
    assert {name: now[name] for name in alike} == {name: then[name] for name in alike}
