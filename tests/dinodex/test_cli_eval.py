"""`dinodex eval` as a person meets it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from commands import Run
from pictures import encoded, picture
from PIL import Image

from backbone import Artifact


@pytest.fixture
def evaluate(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run `dinodex eval` in this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home-cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: run("eval", *arguments)


@pytest.fixture
def sides(tmp_path: Path) -> list[object]:
    """Options that name two folders of two classes, without an image in common."""
    for number in range(24):
        side = "val" if number % 3 == 0 else "train"
        path = tmp_path / side / ("cats" if number % 2 else "dogs") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(seed=number)))
    return ["--train", tmp_path / "train", "--val", tmp_path / "val"]


def test_a_table_has_one_row_for_each_figure_and_says_what_it_means(
    evaluate: Run, sides: list[object], tiny_artifact: Artifact
) -> None:
    code, out, err = evaluate(tiny_artifact.path, *sides)
    assert code == 0, err
    figures = ["kNN, k 10 ", "kNN, k 200 ", "linear probe", "recall@1 ", "recall@10", "mAP", "NMI", "ARI", "purity"]
    for figure in figures:
        assert sum(f"│ {figure}" in line for line in out.splitlines()) == 1, figure
    assert "16 training and 8 validation images in 2 classes" in out
    assert "k of 20 and 100 and 200: all 16 training images vote" in out
    assert "embedding 16 images" in err


def test_u10_json_goes_through_a_pipe_and_to_where_a_link_leads(
    evaluate: Run, sides: list[object], tiny_artifact: Artifact, tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    assert evaluate(tiny_artifact.path, *sides, "--json", f"/dev/fd/{writer}")[0] == 0
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as file:
        assert json.load(file)["fingerprint"] == tiny_artifact.fingerprint
    (tmp_path / "link").symlink_to("scores.json")
    assert evaluate(tiny_artifact.path, *sides, "--json", tmp_path / "link")[0] == 0
    assert json.loads((tmp_path / "scores.json").read_text())["fingerprint"] == tiny_artifact.fingerprint
    assert (tmp_path / "link").is_symlink()


def test_u10_json_that_cannot_be_written_is_said_before_the_work(
    evaluate: Run, sides: list[object], tmp_path: Path
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path, why in (
        (tmp_path, "it is a directory"),
        (tmp_path / "loop", "Too many levels"),
        ("/dev/fd/999", "Bad file"),
    ):
        code, _, err = evaluate(tmp_path / "no-artifact", *sides, "--json", path)
        assert (code, err.count("\n")) == (74, 1)
        assert why in err


def test_json_goes_to_a_file_beside_the_table_or_alone_to_standard_output(
    evaluate: Run, sides: list[object], tiny_artifact: Artifact, tmp_path: Path
) -> None:
    code, out, _ = evaluate(tiny_artifact.path, *sides, "--json", tmp_path / "scores.json")
    assert code == 0
    assert "linear probe" in out
    written = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert written["fingerprint"] == tiny_artifact.fingerprint
    assert list(written["knn"]) == ["10", "20", "100", "200"]
    assert list(written["retrieval"]["recall"]) == ["1", "5", "10"]
    assert set(written["clustering"]) == {"nmi", "ari", "purity"}
    assert set(written["linear"]) == {"accuracy", "weight_decay", "grid"}
    assert written["counts"]["validation"] == 8

    code, out, err = evaluate(tiny_artifact.path, *sides, "--json", "-")
    assert code == 0
    assert err == ""  # nothing was embedded again
    shown = json.loads(out)
    for moving in (written, shown):
        del moving["timing"]
    assert shown == written


def test_vectors_are_kept_where_one_asks_or_not_at_all(
    evaluate: Run, sides: list[object], tiny_artifact: Artifact, tmp_path: Path
) -> None:
    assert evaluate(tiny_artifact.path, *sides, "--no-cache")[0] == 0
    assert not (tmp_path / "home-cache").exists()
    assert evaluate(tiny_artifact.path, *sides, "--cache", tmp_path / "mine")[0] == 0
    assert len(list((tmp_path / "mine").iterdir())) == 2
    assert not (tmp_path / "home-cache").exists()
    assert evaluate(tiny_artifact.path, *sides)[0] == 0
    assert len(list((tmp_path / "home-cache" / "dinodex" / "features").iterdir())) == 2
    assert evaluate(tiny_artifact.path, *sides, "--cache", tmp_path / "mine", "--no-cache")[0] == 2


def test_each_mistake_has_its_exit_code_and_one_sentence(
    evaluate: Run, sides: list[object], tiny_artifact: Artifact, tmp_path: Path
) -> None:
    train, val = sides[1], sides[3]
    one_class = tmp_path / "one"
    (one_class / "cats").mkdir(parents=True)
    (one_class / "cats" / "1.png").write_bytes(encoded(picture(seed=1)))
    wrong = [
        ((tiny_artifact.path, "--train", tmp_path / "nowhere", "--val", val), 74, "nowhere does not exist"),
        ((tiny_artifact.path, "--train", train, "--val", one_class), 65, "only images of the class cats"),
        ((tiny_artifact.path, "--train", tmp_path / "train" / "cats", "--val", val), 65, "no class folders"),
        ((tmp_path / "nowhere", *sides), 74, "does not exist"),
        ((tmp_path / "train", *sides), 65, "is not an artifact"),
        ((tiny_artifact.path, *sides, "--json", tmp_path / "nowhere" / "a.json"), 74, "nowhere does not exist"),
        ((tiny_artifact.path, "--train", train), 2, "--val"),
    ]
    for arguments, expected, message in wrong:
        code, out, err = evaluate(*arguments)
        assert code == expected, (arguments, err)
        assert message in err
        assert out == ""


def test_u16_dim_images_are_told_of_and_a_range_is_another_model(
    evaluate: Run, sides: list[object], tiny_artifact: Artifact, tmp_path: Path
) -> None:
    deep = np.linspace(0, 4095, 400).reshape(20, 20).astype(np.uint16)
    (tmp_path / "train" / "cats" / "deep.png").write_bytes(encoded(Image.fromarray(deep)))
    code, out, err = evaluate(tiny_artifact.path, *sides, "--json", "-", "--no-cache")
    assert (code, "1 of the 1 images of 16 bits" in err) == (0, True)
    assert json.loads(out)["fingerprint"] == tiny_artifact.fingerprint
    code, out, err = evaluate(tiny_artifact.path, *sides, "--json", "-", "--no-cache", "--value-range", "0:4095")
    assert (code, "16 bits" in err) == (0, False)
    assert json.loads(out)["fingerprint"] != tiny_artifact.fingerprint
    assert evaluate(tiny_artifact.path, *sides, "--value-range", "9:1")[0] == 2


def test_u06_u07_what_is_left_out_is_said_beside_json_that_stays_json(
    evaluate: Run, sides: list[object], tiny_artifact: Artifact, tmp_path: Path
) -> None:
    for name in ("train/cats/1.PSD", "train/@eaDir/2.png", "val/raw/3.png", "val/empty/4.mov"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(picture()))
    code, out, err = evaluate(tiny_artifact.path, *sides, "--exclude", "raw", "--json", "-")
    assert code == 0
    assert json.loads(out)["counts"]["train"] == 16
    assert f"{tmp_path / 'train'}: left out: 1 .psd; 1 file or folder of the system (@eaDir)" in err
    assert f"{tmp_path / 'val'}: left out: 1 .mov; 1 file or folder by exclude (raw)" in err
    empty = [note for note in json.loads(out)["notes"] if "without images" in note]
    assert empty == [f"{tmp_path / 'val'}: class folders without images: empty."]
