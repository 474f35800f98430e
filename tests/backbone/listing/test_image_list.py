from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pictures import encoded, picture

from backbone import list_images
from backbone.errors import DataInvalid, PathMissing, StorageFailed


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


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def ids(source: Path, exclude: Sequence[str] = ()) -> list[str]:
    return [image.id for image in list_images(source, exclude=exclude).images]


SYSTEMS = (
    *("@eaDir", "@EADIR", "@tmp", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", ".@__thumb"),
    *(
        "$RECYCLE.BIN",
        "$Recycle.Bin",
        "RECYCLER",
        "System Volume Information",
        "found.000",
        "FOUND.012",
        "$Windows.~BT",
    ),
    *("__MACOSX", "Network Trash Folder", "Temporary Items", ".Spotlight-V100", ".Trashes", ".fseventsd"),
    *("lost+found", ".Trash-1000", "~snapshot", "LOST.DIR", ":2eAppleDouble"),
)
OWN = ("recycled", "trash", "tmp", "snapshot", "found", "found.0001", "my__MACOSX", "eaDir", "lost and found", "System")


@pytest.mark.parametrize("name", SYSTEMS)
def test_u07_folders_that_systems_leave_are_left_out_at_any_depth_and_counted(tmp_path: Path, name: str) -> None:
    make(tmp_path, f"{name}/a.jpg", f"cat/{name}/b.jpg/SYNOPHOTO_THUMB_M.jpg", "cat/1.jpg")
    listing = list_images(tmp_path)
    assert [image.id for image in listing.images] == ["cat/1.jpg"]
    assert listing.classes == ("cat",)
    hidden = name.startswith(".")
    assert str(listing.left_out) == ("" if hidden else f"left out: 2 files or folders of the system ({name})")


@pytest.mark.parametrize("name", OWN)
def test_u07_a_folder_that_a_person_may_have_named_is_taken(tmp_path: Path, name: str) -> None:
    assert ids(make(tmp_path, f"{name}/a.jpg")) == [f"{name}/a.jpg"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_u07_a_folder_that_is_named_as_the_source_is_taken_whatever_its_name(tmp_path: Path, name: str) -> None:
    make(tmp_path / name, "cat/1.jpg", "list.txt")
    assert ids(tmp_path / name) == ["cat/1.jpg"]
    (tmp_path / "list.txt").write_text(f"{name}/cat/1.jpg\n")
    assert ids(tmp_path / "list.txt") == [f"{name}/cat/1.jpg"]


@pytest.mark.parametrize(
    ("path", "covered"),
    [
        ("a.jpg", True),
        ("gone/too/a.JPG", True),
        ("a.heif5", False),
        ("jpg", False),
        ("", False),
        (".a.jpg", False),
        ("b/.c/a.jpg", False),
        ("../a.jpg", False),
        ("b/@eaDir/a.jpg", False),
        ("@eaDir.jpg", True),
        ("raw/a.jpg", False),
        ("b/raw/c/a.jpg", False),
        ("raw.jpg", True),
        ("b/draft-1.jpg", False),
    ],
)
def test_u07_a_listing_says_which_paths_it_would_have_looked_at(tmp_path: Path, path: str, covered: bool) -> None:
    listing = list_images(make(tmp_path, "here.jpg"), exclude=["raw/", "draft-*"])
    assert listing.covers(path) is covered
    assert list_images(tmp_path, formats=("JPEG",)).covers("a.png") is False


def test_u07_a_list_would_have_looked_at_what_it_names_alone(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "b.jpg", ".c/d.jpg")
    (tmp_path / "list.txt").write_text("a.jpg\n.c/d.jpg\n")
    listing = list_images(tmp_path / "list.txt")
    assert [listing.covers(path) for path in ("a.jpg", ".c/d.jpg", "b.jpg")] == [True, True, False]


@pytest.mark.parametrize("name", ["lost+found", "$RECYCLE.BIN", ".Trash-1000", "private"])
def test_u07_a_folder_that_is_left_out_need_not_be_readable(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "cat/1.jpg", f"{name}/secret.jpg")
    entered = os.scandir

    def scandir(path: Any = ".") -> Any:  # noqa: ANN401 - as root, no permission keeps a test out
        if Path(path).name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return entered(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert ids(tmp_path, exclude=["private/"]) == ["cat/1.jpg"]
    if name == "private":
        with pytest.raises(StorageFailed, match=r"cannot read .*private: .*; check the permissions, or exclude it"):
            ids(tmp_path)


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (("train/cat/1.jpg", "val/cat/2.jpg"), True),
        (("Train/1.jpg",), True),
        (("test/1.jpg", "validation/2.jpg", "valid/3.jpg", "beside.jpg", "@eaDir/4.jpg"), True),
        (("train/1.jpg", "cat/2.jpg"), False),
        (("beside.jpg",), False),
        (("cat/train/1.jpg",), False),
    ],
)
def test_u07_a_folder_that_holds_just_a_split_gets_a_hint(tmp_path: Path, names: tuple[str, ...], hint: bool) -> None:
    make(tmp_path, *names)
    assert any("parts of a split" in note for note in list_images(tmp_path).notes) is hint
    assert not any("split" in note for note in list_images(tmp_path, labels="none").notes)
