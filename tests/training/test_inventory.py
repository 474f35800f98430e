from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbone.errors import DataInvalid, PathMissing
from backbone.listing import ListedImage, list_images
from training.inventory import NAME, File, Inventory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for number in range(6):
        (root / f"{number}.png").write_bytes(bytes(number + 1))
    return root


def inventory_of(folder: Path) -> Inventory:
    return Inventory.of(list_images(folder).images)


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
numbers = st.integers(-1, 2**63 - 1)


@given(st.dictionaries(names, st.builds(File, numbers, numbers)))
def test_what_is_written_is_read_back_whatever_the_names(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, File]
) -> None:
    run = tmp_path_factory.mktemp("run")
    Inventory(files).write(run)
    read = Inventory.read(run)
    assert list(read.files.items()) == list(files.items())
    assert read.fingerprint == Inventory(files).fingerprint


def test_equal_sets_are_written_as_equal_bytes(folder: Path, tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        inventory_of(folder).write(tmp_path / name)
        written.append((tmp_path / name / NAME).read_bytes())
    assert written[0] == written[1]


def test_the_fingerprint_is_of_names_and_sizes_and_not_of_places_and_times(folder: Path, tmp_path: Path) -> None:
    mark = inventory_of(folder).fingerprint
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    assert inventory_of(copy).fingerprint == mark
    (copy / "3.png").write_bytes(b"longer than before")
    assert inventory_of(copy).fingerprint != mark
    (folder / "3.png").rename(folder / "9.png")
    assert inventory_of(folder).fingerprint != mark


def test_the_order_of_the_set_is_part_of_it(folder: Path) -> None:
    images = list_images(folder).images
    assert Inventory.of(images).fingerprint != Inventory.of(images[::-1]).fingerprint


def test_an_unchanged_set_has_no_differences(folder: Path) -> None:
    assert inventory_of(folder).differences(inventory_of(folder)) == []


def test_t10_each_kind_of_change_is_a_line_with_names(folder: Path) -> None:
    before = inventory_of(folder)
    (folder / "0.png").unlink()
    (folder / "new.png").write_bytes(b"1")
    (folder / "1.png").write_bytes(b"other size")
    same = folder / "2.png"
    os.utime(same, ns=(0, same.stat().st_mtime_ns + 1))  # written again, to the same size
    assert before.differences(inventory_of(folder)) == ["1 gone: 0.png", "1 new: new.png", "2 changed: 1.png, 2.png"]


def test_t10_a_long_list_is_cut_after_three_names_and_counted(folder: Path) -> None:
    images = list_images(folder).images
    whole, part = Inventory.of(images), Inventory.of(images[5:])
    assert whole.differences(part) == ["5 gone: 0.png, 1.png, 2.png and 2 more"]
    assert Inventory.of(images[3:]).differences(whole) == ["3 new: 0.png, 1.png, 2.png"]


def test_t09_a_file_that_is_gone_when_it_is_looked_at_is_not_a_crash(tmp_path: Path) -> None:
    gone = Inventory.of([ListedImage("a.png", tmp_path / "a.png", None)])
    assert gone.files == {"a.png": File(-1, -1)}
    (tmp_path / "a.png").write_bytes(b"back")
    assert gone.differences(Inventory.of([ListedImage("a.png", tmp_path / "a.png", None)])) == ["1 changed: a.png"]


DAMAGED = [
    b"text",
    gzip.compress(b"no tabs\n", mtime=0),
    gzip.compress(b"1\t2\tname without quotes\n", mtime=0),
    gzip.compress(b"\xff\n", mtime=0),
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_list_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(DataInvalid, match="damaged"):
        Inventory.read(tmp_path)


def test_a_torn_list_says_so(folder: Path, tmp_path: Path) -> None:
    inventory_of(folder).write(tmp_path)
    data = (tmp_path / NAME).read_bytes()
    for length in range(1, len(data)):
        (tmp_path / NAME).write_bytes(data[:length])
        with pytest.raises(DataInvalid, match="damaged"):
            Inventory.read(tmp_path)


def test_a_missing_list_is_missing(tmp_path: Path) -> None:
    with pytest.raises(PathMissing):
        Inventory.read(tmp_path)
