from __future__ import annotations

import gzip
import os
import re
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, picture
from typer.testing import CliRunner

from backbone import list_images
from backbone.errors import DataInvalid, OutputNotEmpty, PathMissing, StorageFailed
from dinodex import demo, demo_data
from dinodex.cli import app
from dinodex.demo import run_demo
from dinodex.demo_data import prepare
from dinodex.demo_report import Curve, Picture, Row, read_curves, write_report
from training.errors import ConfigInvalid


@pytest.fixture
def no_fashion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo_data, "FASHION_MNIST", tmp_path / "not installed")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(30):
        path = tmp_path / "photos" / f"class-{number % 2}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(28, 28, seed=number)))
    return tmp_path / "photos"


def idx(values: np.ndarray) -> bytes:
    """The format of MNIST's files."""
    shape = struct.pack(f">{values.ndim}I", *values.shape)
    return gzip.compress(bytes([0, 0, 8, values.ndim]) + shape + values.tobytes())


@pytest.mark.usefixtures("no_fashion")
def test_without_fashion_mnist_the_digits_are_taken_and_the_reason_is_said(tmp_path: Path) -> None:
    chosen = prepare(None, tmp_path / "images")
    assert chosen.name == "digits"
    assert "need no download" in chosen.why
    assert not chosen.mirrored
    train, held_out = list_images(chosen.train), list_images(chosen.held_out)
    assert len(train) + len(held_out) == 1797
    assert len(train.classes) == len(held_out.classes) == 10
    assert not {image.id for image in train.images} & {image.id for image in held_out.images}


def test_with_fashion_mnist_a_seeded_subset_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "fashion"
    source.mkdir()
    generator = np.random.default_rng(0)
    for prefix, images in (("train", 60), ("t10k", 20)):
        pixels = generator.integers(0, 256, (images, 28, 28), dtype=np.uint8)
        labels = np.arange(images, dtype=np.uint8) % 10
        (source / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(pixels))
        (source / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    monkeypatch.setattr(demo_data, "FASHION_MNIST", source)
    monkeypatch.setattr(demo_data, "MOST_TRAIN", 40)
    monkeypatch.setattr(demo_data, "MOST_HELD_OUT", 15)
    first, second = prepare(None, tmp_path / "a"), prepare(None, tmp_path / "b")
    assert "Debian's package is installed" in first.why
    ids = [image.id for image in list_images(first.train).images]
    assert len(ids) == 40
    assert ids == [image.id for image in list_images(second.train).images]
    assert len(list_images(first.held_out)) == 15


def test_a_folder_of_one_s_own_is_split_and_linked(photos: Path, tmp_path: Path) -> None:
    chosen = prepare(str(photos), tmp_path / "images")
    train, held_out = list_images(chosen.train), list_images(chosen.held_out)
    assert (len(train), len(held_out)) == (24, 6)
    assert train.images[0].path.is_symlink()
    assert chosen.small
    with pytest.raises(PathMissing):
        prepare(str(tmp_path / "none"), tmp_path / "other")
    for path in sorted(photos.rglob("*.png"))[19:]:
        path.unlink()
    with pytest.raises(DataInvalid, match="at least 20"):
        prepare(str(photos), tmp_path / "few")


@pytest.mark.usefixtures("no_fashion")
def test_without_a_network_imagenette_falls_back_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    chosen = prepare("imagenette", tmp_path / "images")
    assert chosen.name == "digits"
    assert "cannot be downloaded" in chosen.why
    assert socket.getdefaulttimeout() is None


def test_a_directory_that_is_no_demo_s_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(OutputNotEmpty, match="not a demo's"):
        run_demo(None, tmp_path, print)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("kind", ["file", "pipe", "loop"])
def test_u10_what_is_no_directory_is_left_alone(photos: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / kind
    if kind == "file":
        out.write_text("precious")
    elif kind == "pipe":
        os.mkfifo(out)
    else:
        out.symlink_to(kind)
    before = out.lstat().st_ino
    with pytest.raises((OutputNotEmpty, StorageFailed)):
        run_demo(str(photos), out, say=print)
    assert out.lstat().st_ino == before


def test_u10_a_directory_is_cleared_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("disk/demo")
    for _ in range(2):
        demo._clear(tmp_path / "out")
        (tmp_path / "out" / "run").mkdir()
        (tmp_path / "out" / "link").symlink_to(tmp_path)
        (tmp_path / "out" / "file").write_text("x")
    demo._clear(tmp_path / "out")
    assert [path.name for path in (tmp_path / "disk" / "demo").iterdir()] == [demo.MARK]
    assert (tmp_path / "out").is_symlink()


def test_the_demo_runs_on_a_small_folder_and_may_run_again(photos: Path, tmp_path: Path) -> None:
    (photos / "class-0" / "31.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")  # wherever the split puts it
    out, said = tmp_path / "out", []
    for _ in range(2):
        measured = run_demo(str(photos), out, said.append, train_s=1.0)
    assert [row[0] for row in measured.rows] == [
        "what",
        "training",
        "indexing",
        "trained backbone, through the service",
        "searching",
        "clustering",
        "the same backbone, untrained",
        "raw pixels",
    ]
    accuracies = [
        row[1] for row in measured.rows if row[0] not in ("what", "training", "indexing", "searching", "clustering")
    ]
    assert len(accuracies) == 3
    assert all(re.fullmatch(r"\d+\.\d%", accuracy) for accuracy in accuracies)
    assert all(re.fullmatch(r"[\d,]+", row[2]) for row in measured.rows[1:])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") >= 6 * 10
    assert "cluster 0" in page
    assert "src='http" not in page
    assert any(line.startswith("data: ") for line in said)


def test_a_report_escapes_what_comes_from_file_names(tmp_path: Path) -> None:
    image = tmp_path / "<b>.png"
    image.write_bytes(encoded(picture()))
    row = Row("<script>alert(1)</script>", [Picture(image, "<i>caption</i>", "query")])
    write_report(
        tmp_path / "r.html",
        why="a & b",
        facts=[("what",), ("<u>1</u>",)],
        curves=[Curve("loss", "", [(0, 2.0), (5, 1.0)])],
        searches=[row],
        clusters=[],
    )
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "<i>" not in page
    assert "<u>" not in page
    assert "a &amp; b" in page
    assert "<polyline" in page


def test_curves_leave_out_what_was_not_measured(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss,knn\n1,3.5,\n2,3.0,0.5\n")
    loss, knn = read_curves(tmp_path / "metrics.csv", [("loss", ""), ("knn", "accuracy")])
    assert loss.points == [(1.0, 3.5), (2.0, 3.0)]
    assert knn.points == [(2.0, 0.5)]


def test_u04_a_rank_that_is_no_number_ends_the_demo_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "first")
    ended = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "out")])
    assert isinstance(ended.exception, ConfigInvalid)
    assert not (tmp_path / "out").exists()
