from __future__ import annotations

from pathlib import Path

import pytest

from backbone import list_images
from backbone.errors import DataInvalid
from backbone.listing.left_out import LeftOut


def counted(*names: str) -> str:
    left_out = LeftOut()
    for name in names:
        left_out.add_file(name)
    return str(left_out)


def test_u06_files_are_counted_by_ending_in_any_case_the_most_frequent_first() -> None:
    assert counted("a.mov", "b.PSD", "c.psd", "README", "d.b.c.mov", "e.PsD") == (
        "left out: 3 .psd, 2 .mov, 1 without an ending"
    )
    assert counted() == ""


def test_u06_what_is_no_ending_is_not_shown_as_one() -> None:
    names = ("a. Then we went home", "b.\x1b[2J", "c.x\ny", "d.", "e.1234567890123")
    assert counted(*names) == "left out: 5 without an ending"
    assert counted("a.123456789012", "b.jpg~", "c.ä") == "left out: 1 .123456789012, 1 .jpg~, 1 .ä"


@pytest.mark.parametrize(
    ("kinds", "end"), [(6, "1 .e5"), (7, "1 .e5, 1 of 1 other endings"), (9, "1 .e5, 3 of 3 other endings")]
)
def test_u06_the_line_stays_a_line_whatever_lies_there(kinds: int, end: str) -> None:
    line = counted(*(f"a.e{number}" for number in range(kinds)))
    assert line.startswith("left out: 1 .e0, 1 .e1")
    assert line.endswith(end)


def test_u06_an_image_left_out_by_the_formats_is_counted_too(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png", "c.PNG", ".hidden.psd", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_bytes(b"")
    [note] = list_images(tmp_path, formats=("JPEG",)).notes
    assert note == "left out: 2 .png; 2 files or folders of the system (Thumbs.db, desktop.ini)"
    assert list_images(tmp_path).left_out.endings.total() == 0


def test_u06_a_link_to_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "roll2").symlink_to(tmp_path / "not mounted")
    assert list_images(tmp_path).notes == ("left out: 1 link to nothing (cat/roll2)",)
    (tmp_path / "not mounted").mkdir()
    assert list_images(tmp_path).notes == ()


def test_u06_where_nothing_is_left_the_error_says_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "@eaDir").mkdir()
    for name in ("a.PSD", "b.PSD", "c.mov"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        DataInvalid, match=r"holds no images.*; left out: 2 \.psd, 1 \.mov; 1 file or folder of the sys"
    ):
        list_images(tmp_path)
    (tmp_path / "list.txt").write_text("a.PSD\n")
    with pytest.raises(DataInvalid, match=r"left out: 1 file or folder by exclude \(\*\.PSD\)"):
        list_images(tmp_path / "list.txt", exclude=["*.PSD"])
