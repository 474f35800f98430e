"""Lists of images as other programs write them: what is clear is taken, what is not is refused with its line."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from backbone import list_images
from backbone.errors import DataInvalid, StorageFailed

FILES = ("a.jpg", "cat/1.JPG", "cat/Zoë.jpg", "two words/b.jpg")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / "data" / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "data" / "photos"


def listed(photos: Path, content: str | bytes, name: str = "list.txt") -> list[str]:
    (photos / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return [image.id for image in list_images(photos / name).images]


PLAIN = "a.jpg\ncat/1.JPG\ncat/Zoë.jpg\ntwo words/b.jpg\n"
CLEAR = {
    "as the format has it": PLAIN,
    "a byte-order mark": b"\xef\xbb\xbf" + PLAIN.encode(),
    "UTF-16 of Windows, with its mark": b"\xff\xfe" + PLAIN.encode("utf-16-le"),
    "line ends of Windows": PLAIN.replace("\n", "\r\n"),
    "line ends of old Macs": PLAIN.replace("\n", "\r"),
    "empty lines": "\n" + PLAIN.replace("\n", "\n \n\t\n"),
    "blanks around": PLAIN.replace("\n", "  \n  "),
    "quotes": "".join(f'"{line}"\n' for line in PLAIN.splitlines()),
    "single quotes": "".join(f"'{line}' \n" for line in PLAIN.splitlines()),
    "a dot in front": "".join(f"./{line}\n" for line in PLAIN.splitlines()),
    "the folder in front": "".join(f"photos/{line}\n" for line in PLAIN.splitlines()),
    "by way of other folders": "".join(f"cat/../../photos/{line}\n" for line in PLAIN.splitlines()),
    "backslashes": PLAIN.replace("/", "\\"),
    "another case": PLAIN.swapcase(),
    "the other Unicode form": unicodedata.normalize("NFD", PLAIN),
    "the other form in another case": unicodedata.normalize("NFD", PLAIN.swapcase()),
    "lines twice": PLAIN + "./a.jpg\n\nA.JPG\n",
}


@pytest.mark.parametrize("content", CLEAR.values(), ids=CLEAR.keys())
def test_u03_what_is_clear_names_its_file(photos: Path, content: str | bytes) -> None:
    assert listed(photos, content) == list(FILES)


def test_u03_lines_that_name_a_file_again_are_counted(photos: Path) -> None:
    assert listed(photos, "a.jpg\n./a.jpg\nA.jpg\n") == ["a.jpg"]
    [note] = list_images(photos / "list.txt").notes
    assert note.endswith("list.txt: lines that name a file again: 2")


@pytest.mark.parametrize("inside", [True, False])
def test_u03_absolute_paths_and_a_list_in_the_current_folder(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    other = tmp_path / "other.jpg"
    other.write_bytes(b"")
    (photos / "list.txt").write_text(f"{photos}/a.jpg\ncat/1.JPG\n" + ("" if inside else f"{other}\n"))
    expected = ["a.jpg", "cat/1.JPG"] if inside else ["data/photos/a.jpg", "data/photos/cat/1.JPG", "other.jpg"]
    for folder, name in ((photos, "list.txt"), (photos / "cat", "../list.txt"), (tmp_path, "data/photos/list.txt")):
        monkeypatch.chdir(folder)
        for source in (Path(name), photos / "list.txt"):
            listing = list_images(source)
            assert [image.id for image in listing.images] == expected
            assert all(image.path.is_file() for image in listing.images)
            assert listing.classes == (("cat",) if inside else ("data",))


def test_u03_a_name_as_it_stands_goes_before_any_reading_of_it(photos: Path) -> None:
    for name in ("photos/a.jpg", "cat\\1.JPG", " a.jpg", "'a.jpg'", "#1.jpg", "a\x0bb.jpg", "a\u2028b.jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"")
        assert listed(photos, f"{name}\n") == [name]


UNCLEAR = {
    "a file that is not there": (
        "a.jpg\n\ncat/2.jpg\n",
        r"line 3: cat/2\.jpg is not there; paths are relative to the list",
    ),
    "a folder": ("cat\n", "line 1: cat is no file"),
    "a comment": ("# my photos\na.jpg\n", "line 1: # my photos is not there"),
    "a label behind": ("a.jpg 0\n", r"line 1: a\.jpg 0 is not there"),
    "Latin-1": ("a.jpg\ncat/Zoë.jpg\n".encode("latin-1"), "line 2 is not UTF-8 text, and names no file"),
    "UTF-16 without its mark": (PLAIN.encode("utf-16-le"), "line 1: a NUL byte"),
    "NUL bytes between": ("a.jpg\0cat/1.JPG\0", "line 1: a NUL byte"),
    "a very long line": ("a.jpg\n" + "x" * 9_000, r"line 2: x{100}\.\.\. is not there"),
    "nothing": ("", r"holds no images; a list has the path of one on each line\.$"),
}


@pytest.mark.parametrize(("content", "message"), UNCLEAR.values(), ids=UNCLEAR.keys())
def test_u03_what_is_not_clear_is_refused_with_its_line(photos: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataInvalid, match=message) as refused:
        listed(photos, content)
    assert "list.txt" in str(refused.value)
    assert len(str(refused.value)) < 600


def test_u03_a_line_that_fits_two_files_is_refused_unless_it_names_one(photos: Path) -> None:
    (photos / "A.jpg").write_bytes(b"")
    with pytest.raises(
        DataInvalid, match=r"line 2: a\.JPG may be .*/A\.jpg or .*/a\.jpg; write it as the file is named"
    ):
        listed(photos, "cat/1.JPG\na.JPG\n")
    assert listed(photos, "A.jpg\n./a.jpg\n") == ["A.jpg", "a.jpg"]


def test_u03_a_file_whose_name_is_not_utf8_is_named_by_its_bytes(photos: Path) -> None:
    (photos / os.fsdecode(b"Zo\xeb.jpg")).write_bytes(b"")
    assert listed(photos, b"Zo\xeb.jpg\n") == [os.fsdecode(b"Zo\xeb.jpg")]


def test_u03_a_list_may_have_the_ending_of_windows_and_a_folder_that_of_a_list(photos: Path) -> None:
    assert listed(photos, "a.jpg\n", "LIST.TXT") == ["a.jpg"]
    (photos / "cat").rename(photos / "cat.txt")
    assert [image.id for image in list_images(photos / "cat.txt").images] == ["1.JPG", "Zoë.jpg"]


def test_u03_a_list_or_a_folder_that_cannot_be_read_is_one_sentence(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "list.txt").write_text("cat/closed.jpg\n")

    def refuse(path: Path, **_: object) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    stat = Path.stat
    with monkeypatch.context() as patched:  # as root, no permission keeps a test out
        patched.setattr(
            Path, "stat", lambda path, **more: refuse(path) if path.name == "closed.jpg" else stat(path, **more)
        )
        with pytest.raises(StorageFailed, match=r"line 1: cannot read .*closed\.jpg: Permission denied"):
            list_images(photos / "list.txt")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refuse)
        with pytest.raises(StorageFailed, match=r"cannot read .*list\.txt: Permission denied"):
            list_images(photos / "list.txt")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", refuse)
        with pytest.raises(StorageFailed, match=r"cannot read .*photos: Permission denied"):
            list_images(photos)
    with pytest.raises(StorageFailed, match="cannot read"):
        list_images(photos / ("x" * 300))
