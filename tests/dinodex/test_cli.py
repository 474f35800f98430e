"""The command line as a person meets it: one sentence and an exit code for each mistake, and the next good command works."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Run, is_one_sentence
from pictures import encoded, picture, png_of
from PIL import Image

from backbone import Artifact, named
from backbone.durable import lock_directory
from backbone.factory import build
from dinodex.demo_service import running_service


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four good images in two class folders, among them CMYK and 16-bit ones."""
    folder = tmp_path / "photos"
    for name, data in {
        "cats/1.png": encoded(picture(seed=1)),
        "cats/2.jpg": encoded(picture(seed=2).convert("CMYK"), "JPEG"),
        "dogs/3.png": encoded(Image.new("I;16", (20, 20), 40_000)),
        "dogs/4.webp": encoded(picture(seed=4), "WEBP"),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def index(run: Run, photos: Path, tiny_artifact: Artifact, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Index the photos into a data directory of this test."""

    def call(*more: object, artifact: Path = tiny_artifact.path) -> tuple[int, str, str]:
        return run("index", photos, "--collection", "c", "--artifact", artifact, "--data", tmp_path / "data", *more)

    return call


@pytest.fixture
def url(tiny_artifact: Artifact, tmp_path: Path) -> Iterator[str]:
    """A running service on its own data directory."""
    settings = {"runtime": "torch", "threads": "1"}
    with running_service(tiny_artifact.path, tmp_path / "served", **settings) as client:
        yield str(client._connection._http.base_url)


def test_every_command_has_help_with_an_example(run: Run) -> None:
    commands = ["train", "export", "serve", "index", "search", "classify", "cluster", "duplicates", "outliers", "demo"]
    nested = [["collections", name] for name in ("list", "show", "evaluate", "label-issues", "create", "delete")]
    for command in [*([name] for name in commands), *nested]:
        code, out, _ = run(*command, "--help")
        assert code == 0
        assert "Example:" in out
        assert f"dinodex {' '.join(command)}" in out.replace("\n", " ")


def test_an_unknown_option_and_an_unknown_command_are_usage_errors(run: Run, tmp_path: Path) -> None:
    assert run("train", tmp_path, "--out", tmp_path / "run", "--colour", "red")[0] == 2
    assert run("frobnicate")[0] == 2
    assert run("index", tmp_path, "--collection", "c")[0] == 2
    assert run("index", tmp_path, "--collection", "c", "--url", "http://x", "--prune")[0] == 2
    assert run("index", tmp_path, "--collection", "c", "--url", "http://x", "--formats", "psd")[0] == 2


def test_an_unknown_training_key_is_answered_with_the_nearest(run: Run, photos: Path, tmp_path: Path) -> None:
    code, _, err = run("train", photos, "--out", tmp_path / "run", "batch_sise=4")
    assert code == 78
    assert is_one_sentence(err)
    assert "batch_size" in err
    assert not (tmp_path / "run").exists()


def test_a_backbone_that_does_not_exist_is_a_configuration_error(run: Run, photos: Path, tmp_path: Path) -> None:
    code, _, err = run("train", photos, "--out", tmp_path / "run", "batch_size=2", "--backbone", "vit_huge_patch14")
    assert (code, is_one_sentence(err)) == (78, True)


def test_images_that_are_not_there(run: Run, tmp_path: Path, tiny_artifact: Artifact) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "1.png").write_bytes(encoded(picture()))
    into = ("--collection", "c", "--artifact", tiny_artifact.path, "--data", tmp_path / "data")
    for command, expected in (
        (("train", tmp_path / "none", "--out", tmp_path / "run"), 74),
        (("train", tmp_path / "empty", "--out", tmp_path / "run"), 65),
        (("train", tmp_path / "one", "--out", tmp_path / "run"), 65),
        (("index", tmp_path / "none", *into), 74),
        (("index", tmp_path / "empty", *into), 65),
    ):
        code, _, err = run(*command)
        assert (code, is_one_sentence(err)) == (expected, True), command
    assert run("index", tmp_path / "one", *into)[0] == 0


def test_an_output_directory_that_holds_something_is_left_alone(
    run: Run, photos: Path, tmp_path: Path, tiny_artifact: Artifact
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    for command in (
        ("train", photos, "--out", tmp_path / "full"),
        ("export", tiny_artifact.path, "--out", tmp_path / "full"),
        ("demo", "--data", photos, "--out", tmp_path / "full"),
    ):
        code, _, err = run(*command)
        assert (code, is_one_sentence(err)) == (74, True), err
        assert "not empty" in err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["precious"]


def test_indexing_reports_each_refusal_and_takes_the_rest(
    index: Callable[..., tuple[int, str, str]], photos: Path, tmp_path: Path
) -> None:
    (photos / "cats" / "zero.png").write_bytes(b"")
    (photos / "cats" / "torn.png").write_bytes(encoded(picture())[:70])
    (photos / "dogs" / "text.jpg").write_text("not an image")
    (photos / "dogs" / "bomb.png").write_bytes(png_of(13_000, 13_000))
    report = tmp_path / "refused.jsonl"
    code, out, err = index("--report", report)
    assert code == 0
    assert out.startswith("4 created, 0 replaced, 0 unchanged, 4 refused")
    assert "refused cats/torn.png" in err
    codes = {entry["id"]: entry["code"] for entry in map(json.loads, report.read_text().splitlines())}
    assert codes == {
        "cats/zero.png": "empty_body",
        "cats/torn.png": "image_corrupt",
        "dogs/text.jpg": "unsupported_image_type",
        "dogs/bomb.png": "too_many_pixels",
    }


def test_a_rerun_embeds_only_what_is_new_or_changed(index: Callable[..., tuple[int, str, str]], photos: Path) -> None:
    assert index()[1].startswith("4 created")
    assert index()[1].startswith("0 created, 0 replaced, 4 unchanged")
    (photos / "cats" / "1.png").write_bytes(encoded(picture(seed=9)))
    (photos / "dogs" / "5.png").write_bytes(encoded(picture(seed=5)))
    os.utime(photos / "dogs" / "4.webp")
    (photos / "dogs" / "3.png").unlink()
    assert index("--prune")[1].startswith("1 created, 1 replaced, 2 unchanged, 0 refused, 1 pruned")
    assert index()[1].startswith("0 created, 0 replaced, 4 unchanged")


def test_a_runtime_that_is_missing_is_missed_by_the_first_image_that_needs_it(
    index: Callable[..., tuple[int, str, str]],
    photos: Path,
    other_artifact: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report = tmp_path / "refused.jsonl"
    without_onnx = other_artifact.path
    assert index(artifact=without_onnx)[0] == 0
    with monkeypatch.context() as patched:
        patched.setenv("DINODEX_RUNTIME", "openvino")
        assert index(artifact=without_onnx)[1].startswith("0 created, 0 replaced, 4 unchanged")
        (photos / "cats" / "0.png").symlink_to(photos / "nowhere")
        (photos / "dogs" / "5.png").write_bytes(encoded(picture(seed=5)))
        code, out, err = index("--report", report, artifact=without_onnx)
        assert (code, out, is_one_sentence(err)) == (78, "", True)
        assert "model.onnx" in err
        assert [json.loads(line)["id"] for line in report.read_text().splitlines()] == ["cats/0.png"]
    assert index(artifact=without_onnx)[1].startswith("1 created, 0 replaced, 4 unchanged, 1 refused")


def test_nothing_but_refusals_is_an_error(index: Callable[..., tuple[int, str, str]], photos: Path) -> None:
    for path in photos.rglob("*.*"):
        path.write_bytes(b"")
    assert index()[0] == 65


def test_a_damaged_artifact_and_one_of_another_model(
    index: Callable[..., tuple[int, str, str]], tiny_artifact: Artifact, other_artifact: Artifact, tmp_path: Path
) -> None:
    damaged = shutil.copytree(tiny_artifact.path, tmp_path / "damaged")
    weights = damaged / "weights.safetensors"
    whole = bytearray(weights.read_bytes())
    whole[-1] ^= 1
    weights.write_bytes(bytes(whole))
    for collection in ("new", "over unchanged files"):
        code, _, err = index(artifact=damaged)
        assert (code, is_one_sentence(err)) == (65, True), collection
        assert "weights.safetensors" in err
        assert index()[0] == 0
    code, _, err = index(artifact=other_artifact.path)
    assert (code, is_one_sentence(err)) == (65, True)
    assert index()[0] == 0


def test_a_data_directory_that_another_process_holds(
    index: Callable[..., tuple[int, str, str]], run: Run, tiny_artifact: Artifact, tmp_path: Path
) -> None:
    with lock_directory(tmp_path / "data"):
        code, _, err = index()
        assert (code, is_one_sentence(err)) == (75, True)
        served = run("serve", "--artifact", tiny_artifact.path, "--data", tmp_path / "data")
        assert served[0] == 78, "without a key it does not even look at the directory"
    assert index()[0] == 0


def test_a_port_in_use_and_a_missing_key(
    run: Run, tiny_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("serve", "--artifact", tiny_artifact.path, "--data", tmp_path / "data")
    code, _, err = run(*command)
    assert (code, is_one_sentence(err)) == (78, True)
    monkeypatch.setenv("DINODEX_ALLOW_ANONYMOUS", "1")
    assert run(*command, "--host", "0.0.0.0")[0] == 78  # an open door on every address is not for the asking
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, err = run(*command, "--port", taken.getsockname()[1])
    assert (code, is_one_sentence(err)) == (74, True)
    assert "in use" in err


def test_export_takes_hub_weights_and_refuses_other_programs_files(run: Run, tmp_path: Path) -> None:
    torch.save(build(named("vit_tiny_patch14", 28)).state_dict(), tmp_path / "hub.pth")
    code, out, _ = run("export", tmp_path / "hub.pth", "--out", tmp_path / "artifact", "--no-onnx")
    assert code == 0
    assert "dimension 192" in out
    torch.save({"state_dict": {"layer": torch.zeros(1)}}, tmp_path / "other.ckpt")
    for source, expected in ((tmp_path / "other.ckpt", 65), (tmp_path / "none", 74), (tmp_path, 65)):
        code, _, err = run("export", source, "--out", tmp_path / "again")
        assert (code, is_one_sentence(err)) == (expected, True), source
    assert not (tmp_path / "again").exists()


def test_the_client_commands_against_a_running_service(run: Run, photos: Path, url: str) -> None:
    assert run("collections", "create", "c", "--url", url)[0] == 0
    code, out, err = run("index", photos, "--collection", "c", "--url", url)
    assert code == 0, err
    assert out.startswith("4 created")
    assert run("index", photos, "--collection", "c", "--url", url)[1].startswith("0 created, 0 replaced, 4 unchanged")
    query = photos / "cats" / "1.png"
    hits = json.loads(run("search", query, "--collection", "c", "--url", url, "--json")[1])
    assert hits[0]["id"] == "cats/1.png"
    votes = json.loads(run("classify", query, "--collection", "c", "--k", 1, "--url", url, "--json")[1])
    assert votes[0]["label"] == "cats"
    even = ["--weighting", "uniform", "--balance", "inverse", "--exact"]
    votes = json.loads(run("classify", query, "--collection", "c", "--k", 4, *even, "--url", url, "--json")[1])
    assert votes[0]["probability"] == pytest.approx(0.5)
    assert run("classify", query, "--collection", "c", "--weighting", "cosine", "--url", url)[0] == 2
    [figures] = json.loads(run("collections", "evaluate", "c", "--k", 1, "--k", 3, "--url", url, "--json")[1])
    assert (figures["points"], list(figures["accuracy"])) == (4, ["1", "3"])
    assert "best k" in run("collections", "evaluate", "c", "--url", url)[1]
    assert "of 4 labelled points" in run("collections", "label-issues", "c", "--url", url)[1]
    for issue in json.loads(run("collections", "label-issues", "c", "--url", url, "--json")[1]):
        assert issue["label"] != issue["suggested"]
    assert "cats/1.png" in run("search", query, "--collection", "c", "--url", url)[1]
    clusters = json.loads(run("cluster", "--collection", "c", "--k", 2, "--url", url, "--json")[1])
    assert run("cluster", "--collection", "c", "--k", "two", "--url", url)[0] == 2
    assert run("cluster", "--collection", "c", "--method", "magic", "--url", url)[0] == 2
    assert "clustering" in run("cluster", "--collection", "c", "--url", url)[1]
    groups = json.loads(run("duplicates", "--collection", "c", "--threshold", 0, "--url", url, "--json")[1])
    assert sum(group["size"] for group in groups) <= 4
    assert "of 4 images" in run("duplicates", "--collection", "c", "--across", "cats", "dogs", "--url", url)[1]
    assert len(json.loads(run("outliers", "--collection", "c", "--k", 1, "--limit", 3, "--url", url, "--json")[1])) == 3
    assert sum(cluster["size"] for cluster in clusters) == 4
    assert "c" in run("collections", "list", "--url", url)[1]
    assert json.loads(run("collections", "show", "c", "--url", url, "--json")[1])[0]["count"] == 4
    code, _, err = run("search", query, "--collection", "missing", "--url", url)
    assert (code, is_one_sentence(err)) == (65, True)
    assert run("collections", "delete", "c", "--yes", "--url", url)[0] == 0
    assert json.loads(run("collections", "list", "--url", url, "--json")[1]) == []


def test_no_service_is_an_input_output_error(run: Run, photos: Path) -> None:
    code, _, err = run("collections", "list", "--url", "http://127.0.0.1:9")
    assert (code, is_one_sentence(err)) == (74, True)
    code, _, err = run("index", photos, "--collection", "c", "--url", "http://127.0.0.1:9")
    assert (code, is_one_sentence(err)) == (74, True)


def test_a_query_image_or_a_key_file_that_is_not_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run("search", tmp_path / "none.png", "--collection", "c")
    assert (code, is_one_sentence(err)) == (74, True)
    monkeypatch.setenv("DINODEX_API_KEY_FILE", str(tmp_path / "none"))
    code, _, err = run("collections", "list")
    assert (code, is_one_sentence(err)) == (74, True)
    assert "DINODEX_API_KEY_FILE" in err


def test_the_command_is_quick_to_say_what_it_can(tmp_path: Path) -> None:
    script = (
        "import sys; sys.argv = ['dinodex', '--help']\nfrom dinodex.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'faiss', 'fastapi', 'httpx', 'lightning') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.splitlines()[-1] == "[]"


def test_u16_indexing_says_once_that_images_are_dim_and_takes_their_range(
    index: Callable[..., tuple[int, str, str]], run: Run, photos: Path
) -> None:
    deep = np.linspace(0, 4095, 400).reshape(20, 20).astype(np.uint16)
    for name in ("1", "2"):
        (photos / "cats" / f"deep{name}.png").write_bytes(encoded(Image.fromarray(deep)))
    code, out, err = index()
    assert (code, out[:9]) == (0, "6 created")
    assert err.count("2 of the 3 images of 16 bits that were looked at use only the lower 12") == 1
    assert "--value-range 0:4095" in err
    code, out, err = index("--collection", "d", "--value-range", "0:4095")
    assert (code, out[:9], err) == (0, "6 created", "")
    code, _, err = index("--value-range", "0:4095")  # other vectors than those that the collection holds
    assert (code, is_one_sentence(err)) == (65, True), (code, err)
    assert index("--value-range", "dark")[0] == 2
    assert run("index", photos, "--collection", "c", "--url", "http://x", "--value-range", "4095")[0] == 2
    assert "DINODEX_VALUE_RANGE 0:4095" in run("index", photos, "--collection", "c", "--url", "http://127.0.0.1:9")[2]


def test_u06_u07_indexing_says_what_it_leaves_out(
    index: Callable[..., tuple[int, str, str]], photos: Path, tmp_path: Path
) -> None:
    for name in ("cats/5.PSD", "#recycle/6.png", "dogs/raw/7.png", "README"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(encoded(picture()))
    code, out, err = index("--exclude", "raw/", "--exclude", "none")
    assert (code, out[:9]) == (0, "4 created")
    assert (
        "left out: 1 .psd, 1 without an ending; 1 file or folder of the system (#recycle); 1 file or folder by exclude"
        in err
    )
    assert "nothing is left out by exclude (none)" in err
    assert index("--formats", "png", "--exclude", "dogs")[2].startswith("left out: 1 .jpg, 1 .psd, 1 without")


def test_u07_a_run_takes_patterns_as_an_option_and_as_a_key(run: Run, photos: Path, tmp_path: Path) -> None:
    code, _, err = run("train", photos, "--out", tmp_path / "run", "--exclude", "cats", "exclude=*.webp,3.png")
    assert (code, "no images" in err) == (65, True)
    assert "left out: 3 files or folders by exclude (*.webp, 3.png, cats)" in err


def test_u20_a_key_file_of_windows_is_read_or_refused_in_one_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    monkeypatch.setenv("DINODEX_API_KEY_FILE", str(file))
    ask = ("collections", "list", "--url", "http://127.0.0.1:9")
    for content, expected in (
        (b"\xef\xbb\xbfsecretkey\r\n", 74),  # asked, and nobody is there
        ("schlüssel".encode(), 74),
        ("\ufeffsecretkey".encode("utf-16"), 78),
        (b"secret\x1bkey", 78),
        (b"secret\nkey", 78),
    ):
        file.write_bytes(content)
        code, _, err = run(*ask)
        assert (code, is_one_sentence(err)) == (expected, True)
        assert (str(file) in err) is (expected == 78)
    code, _, err = run(*ask, "--api-key", "secret\nkey")
    assert (code, is_one_sentence(err)) == (78, True)


def test_u03_indexing_says_how_labels_fitted_or_why_not(
    index: Callable[..., tuple[int, str, str]], photos: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("\ufeffpath;label\n.\\Cats\\1.png;tabby\ndogs/3.png; pug\ngone.png;x\n", encoding="utf-8")
    code, out, err = index("--labels", labels)
    assert (code, out[:9]) == (0, "4 created")
    assert "row 1 (path,label) is taken as a header" in err
    assert "2 of 4 files without a label (cats/2.jpg, dogs/4.webp), 1 of 3 rows without a file (row 4: gone.png)" in err
    for content in (b"", b"gone.png,x\n", b"cats/1.png,a\ncats/1.png,b\n", b"cats/1.png\n", b"cats/1.png,\xe4\n"):
        labels.write_bytes(content)
        code, _, err = index("--labels", labels)
        assert (code, is_one_sentence(err)) == (65, True), err
    code, _, err = index("--labels", photos)
    assert (code, is_one_sentence(err)) == (65, True)


def test_u14_behind_two_dashes_debug_is_a_name_like_any_other(run: Run, tmp_path: Path) -> None:
    code, _, err = run("index", "--collection", "c", "--url", "http://127.0.0.1:9", "--", "--debug")
    assert (code, is_one_sentence(err)) == (74, True)
    assert "--debug does not exist" in err
