"""What becomes of a file whose id belongs to the point of another source."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.ingestion.job import IndexResult

if TYPE_CHECKING:
    from conftest import Photos

Filled = Callable[..., Path]
NAMES = ("DSC_0.jpg", "DSC_1.jpg", "DSC_2.jpg")


@pytest.fixture
def roll1(photos: Photos, filled: Filled) -> Path:
    folder = filled("roll1", *NAMES, content="1")
    photos.index(folder)
    return folder


@pytest.fixture
def roll2(roll1: Path, filled: Filled) -> Path:
    """Other pictures, with the same names, sizes and times."""
    folder = filled("roll2", *NAMES, content="2")
    for name in NAMES:
        status = (roll1 / name).stat()
        os.utime(folder / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    return folder


def counts(result: IndexResult) -> tuple[int, int, int, int]:
    return result.created, result.replaced, result.unchanged, result.refused


def test_u02_a_point_of_another_folder_is_not_replaced(
    photos: Photos, roll1: Path, roll2: Path, tmp_path: Path
) -> None:
    report = tmp_path / "refused.jsonl"
    result = photos.index(roll2, report=report)
    assert counts(result) == (0, 0, 0, 3)
    assert result.other_source == 3
    assert photos.files == {name: f"{roll1}/{name}" for name in NAMES}
    assert photos.has("DSC_0.jpg", b"1DSC_0.jpg")
    first = json.loads(report.read_text().splitlines()[0])
    assert (first["id"], first["code"]) == ("DSC_0.jpg", "other_source")
    for said in (f"{roll1}/DSC_0.jpg", "--id-prefix", "--replace-sources"):
        assert said in first["detail"]
    assert counts(photos.index(roll1)) == (0, 0, 3, 0)


def test_u02_it_is_replaced_where_that_was_asked_for(photos: Photos, roll1: Path, roll2: Path) -> None:
    assert counts(photos.index(roll2, replace_sources=True)) == (0, 3, 0, 0)
    assert photos.files == {name: f"{roll2}/{name}" for name in NAMES}
    assert counts(photos.index(roll2)) == (0, 0, 3, 0)
    assert counts(photos.index(roll1)) == (0, 0, 0, 3)


def test_u02_a_prefix_keeps_both_and_is_no_label(photos: Photos, roll1: Path, roll2: Path) -> None:
    assert counts(photos.index(roll2, id_prefix="roll2/")) == (3, 0, 0, 0)
    assert counts(photos.index(roll2, id_prefix="roll2/")) == (0, 0, 3, 0)
    assert set(photos.files) == {*NAMES, *(f"roll2/{name}" for name in NAMES)}
    assert {each.label for each in photos.collection.stored().values()} == {None}


def test_u02_an_id_is_as_long_as_it_may_be_with_its_prefix(photos: Photos, filled: Filled) -> None:
    folder = filled("a", "1.jpg")
    assert photos.index(folder, id_prefix="p" * (512 - len("1.jpg"))).created == 1
    assert photos.index(folder, id_prefix="p" * (513 - len("1.jpg"))).refused == 1


def test_u13_a_file_whose_name_is_no_text_is_told_to_be_renamed(photos: Photos, filled: Filled) -> None:
    cafe = os.fsdecode(b"caf\xe9")
    folder = filled("a", "1.jpg", "b/1.jpg", "c.jpg")
    (folder / "b").rename(folder / cafe)
    (folder / "c.jpg").rename(folder / f"{cafe}.jpg")
    result = photos.index(folder)
    assert counts(result) == (1, 0, 0, 2)
    assert {(each.code, each.detail.partition(";")[0]) for each in result.first_refusals} == {
        ("invalid_id", "its path is not UTF-8 text, as an id has to be")
    }


def test_u02_a_point_that_came_over_rest_is_another_source(photos: Photos, filled: Filled) -> None:
    folder = filled("a", *NAMES)
    photos.put("DSC_0.jpg", b"by hand")
    photos.put("DSC_1.jpg", b"DSC_1.jpg")
    result = photos.index(folder)
    assert counts(result) == (1, 0, 1, 1)
    assert "came from no file" in result.first_refusals[0].detail
    assert photos.files["DSC_0.jpg"] is None
    assert counts(photos.index(folder, replace_sources=True)) == (0, 1, 2, 0)
    assert photos.files == {name: f"{folder}/{name}" for name in NAMES}


def test_u02_a_folder_that_was_indexed_over_rest_is_the_source_of_its_pictures_from_then_on(
    photos: Photos, filled: Filled
) -> None:
    folder = filled("a", *NAMES)
    for name in NAMES:
        photos.put(name, name.encode())
    assert counts(photos.index(folder)) == (0, 0, 3, 0)
    (folder / "DSC_0.jpg").write_text("changed")
    (folder / "DSC_1.jpg").unlink()
    result = photos.index(folder, prune=True)
    assert (counts(result), result.pruned) == ((0, 1, 1, 0), 1)


def test_u02_the_same_picture_in_another_folder_is_unchanged_and_may_get_another_label(
    photos: Photos, filled: Filled
) -> None:
    first, second = filled("a", "cat/1.jpg"), filled("b", "cat/1.jpg")
    photos.index(first)
    assert counts(photos.index(second)) == (0, 0, 1, 0)
    photos.collection.update("cat/1.jpg", label="tiger")
    assert counts(photos.index(second)) == (0, 0, 1, 0)
    assert photos.collection.point("cat/1.jpg").label == "cat"
    assert photos.files == {"cat/1.jpg": f"{first}/cat/1.jpg"}


def test_u02_a_changed_file_is_replaced_as_before_by_whatever_path_it_is_listed(
    photos: Photos, roll1: Path, tmp_path: Path
) -> None:
    (roll1 / "list.txt").write_text("DSC_0.jpg\n")
    (tmp_path / "link").symlink_to(roll1)
    for number, source in enumerate((roll1, roll1 / "list.txt", tmp_path / "link", tmp_path / "link/list.txt")):
        (roll1 / "DSC_0.jpg").write_text(f"changed {number}")
        assert photos.index(source).replaced == 1, source
    assert photos.has("DSC_0.jpg", b"changed 3")


def test_u02_a_link_inside_of_a_folder_leads_to_the_same_file(photos: Photos, filled: Filled, tmp_path: Path) -> None:
    disk = filled("disk", "1.jpg")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").symlink_to(disk / "1.jpg")
    photos.index(tmp_path / "a")
    (disk / "1.jpg").write_text("changed")
    assert counts(photos.index(disk)) == (0, 1, 0, 0)


def test_u02_one_picture_that_moved_to_another_folder_takes_its_point_along(
    photos: Photos, roll1: Path, roll2: Path
) -> None:
    (roll1 / "DSC_0.jpg").rename(roll2 / "DSC_0.jpg")
    assert counts(photos.index(roll2)) == (0, 0, 1, 2)
    assert photos.files["DSC_0.jpg"] == f"{roll2}/DSC_0.jpg"


def test_u02_pictures_that_moved_away_keep_their_points_from_those_that_came_in_their_place(
    photos: Photos, roll1: Path, filled: Filled
) -> None:
    archive = roll1.rename(roll1.parent / "archive")
    filled("roll1", *NAMES, content="new")
    assert counts(photos.index(archive)) == (0, 0, 3, 0)
    assert photos.files == {name: f"{archive}/{name}" for name in NAMES}
    assert counts(photos.index(roll1)) == (0, 0, 0, 3)
    assert photos.has("DSC_0.jpg", b"1DSC_0.jpg")


def test_u02_files_that_have_points_of_other_ids_are_counted(photos: Photos, filled: Filled) -> None:
    folder = filled("a", "cat/1.jpg", "cat/2.jpg", "dog/1.jpg")
    assert photos.index(folder / "cat").listed_twice == 0
    result = photos.index(folder)
    assert (result.created, result.listed_twice) == (3, 2)
    assert photos.index(folder).listed_twice == 0
