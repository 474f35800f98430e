from __future__ import annotations

from pathlib import Path

import pytest
from pictures import encoded, picture

from backbone import list_images
from backbone.errors import DataInvalid, PathMissing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/2.png", "a/1.JPG", "a/deep/3.webp", "top.png", "notes.txt", ".hidden/4.png", "a/.5.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture()))
    return tmp_path / "images"


def test_ids_are_paths_below_the_source_and_labels_the_first_folder(folder: Path) -> None:
    listing = list_images(folder)
    assert [(image.id, image.label) for image in listing.images] == [
        ("a/1.JPG", "a"),
        ("a/deep/3.webp", "a"),
        ("b/2.png", "b"),
        ("top.png", None),
    ]
    assert listing.classes == ("a", "b")
    assert len(listing) == 4


def test_labels_can_be_switched_off_or_come_from_a_table(folder: Path, tmp_path: Path) -> None:
    assert list_images(folder, labels="none").classes == ()
    (tmp_path / "labels.csv").write_text("a/1.JPG,cat\ntop.png,dog\n")
    listing = list_images(folder, labels=tmp_path / "labels.csv")
    assert {image.id: image.label for image in listing.images if image.label} == {"a/1.JPG": "cat", "top.png": "dog"}
    (tmp_path / "labels.csv").write_text("a/1.JPG\n")
    with pytest.raises(DataInvalid, match="row 1"):
        list_images(folder, labels=tmp_path / "labels.csv")
    with pytest.raises(PathMissing):
        list_images(folder, labels=tmp_path / "none.csv")


def test_formats_choose_the_candidates(folder: Path) -> None:
    assert [image.id for image in list_images(folder, formats=("WEBP",)).images] == ["a/deep/3.webp"]


def test_a_list_file_names_its_images_relative_to_itself(folder: Path) -> None:
    (folder / "list.txt").write_text("b/2.png\n\na/1.JPG\nb/2.png\n")
    assert [image.id for image in list_images(folder / "list.txt").images] == ["a/1.JPG", "b/2.png"]
    (folder / "a" / "list.txt").write_text("1.JPG\n../b/2.png\n")
    assert [image.id for image in list_images(folder / "a" / "list.txt").images] == ["a/1.JPG", "b/2.png"]


def test_a_list_that_names_a_missing_file_says_which_line(folder: Path) -> None:
    (folder / "list.txt").write_text("b/2.png\nnone.png\n")
    with pytest.raises(DataInvalid, match=r"line 2: none.png"):
        list_images(folder / "list.txt")


def test_a_folder_linked_into_itself_is_walked_once(folder: Path) -> None:
    (folder / "b" / "again").symlink_to(folder)
    assert len(list_images(folder)) == 4


def test_nothing_to_list_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PathMissing, match="does not exist"):
        list_images(tmp_path / "none")
    with pytest.raises(DataInvalid, match="no images"):
        list_images(tmp_path)
    (tmp_path / "file.png").write_bytes(b"")
    with pytest.raises(DataInvalid, match="not a list"):
        list_images(tmp_path / "file.png")
