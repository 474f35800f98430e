"""Labels from a CSV file as other programs write it: what is clear attaches to its file, all else is refused or counted."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from backbone import ImageList, list_images
from backbone.errors import DataInvalid, PathMissing, StorageFailed
from service.errors import InvalidLabel
from service.points import check_label

FILES = ("a.jpg", "cat/1.JPG", "cat/Zoë.jpg", "two words/b.jpg")
LABELS = {"a.jpg": "x", "cat/1.JPG": "y", "cat/Zoë.jpg": "z"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / "data" / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "data" / "photos"


def listed(photos: Path, content: str | bytes, name: str = "labels.csv") -> ImageList:
    file = photos.parent / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list_images(photos, labels=file)


def labels(listing: ImageList) -> dict[str, str]:
    return {image.id: image.label for image in listing.images if image.label is not None}


PLAIN = "a.jpg,x\ncat/1.JPG,y\ncat/Zoë.jpg,z\n"
CLEAR = {
    "as the format has it": PLAIN,
    "a byte-order mark": b"\xef\xbb\xbf" + PLAIN.encode(),
    "UTF-16 of Windows, with its mark": b"\xff\xfe" + PLAIN.encode("utf-16-le"),
    "UTF-16 the other way round": b"\xfe\xff" + PLAIN.encode("utf-16-be"),
    "UTF-32": b"\xff\xfe\x00\x00" + PLAIN.encode("utf-32-le"),
    "line ends of Windows": PLAIN.replace("\n", "\r\n"),
    "line ends of old Macs": PLAIN.replace("\n", "\r"),
    "no end of the last line": PLAIN.rstrip("\n"),
    "empty lines and rows at the end": PLAIN + "\n\r\n , \n,\n",
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "blanks after the comma": PLAIN.replace(",", ",  "),
    "blanks around": PLAIN.replace(",", " , ").replace("\n", "  \n"),
    "quotes": '"a.jpg","x"\n"cat/1.JPG",y\ncat/Zoë.jpg,"z"\n',
    "quotes after blanks": 'a.jpg, "x"\n"cat/1.JPG" , "y"\n"cat/Zoë.jpg",  z\n',
    "a dot in front": "./a.jpg,x\n./cat/1.JPG,y\n././cat/./Zoë.jpg,z\n",
    "the folder in front": "photos/a.jpg,x\nphotos/cat/1.JPG,y\n./photos/cat/Zoë.jpg,z\n",
    "two folders in front": "data/photos/a.jpg,x\ndata/photos/cat/1.JPG,y\ndata/photos/cat/Zoë.jpg,z\n",
    "by way of another folder": "../data/photos/a.jpg,x\nphotos/../photos/cat/1.JPG,y\ncat/../cat/Zoë.jpg,z\n",
    "backslashes": "a.jpg,x\ncat\\1.JPG,y\n.\\photos\\cat\\Zoë.jpg,z\n",
    "another case": "A.JPG,x\nCat/1.jpg,y\ncat/ZOË.jpg,z\n",
    "the other Unicode form": unicodedata.normalize("NFD", PLAIN),
    "the other form in another case": unicodedata.normalize("NFD", PLAIN.replace("Zoë", "ZOË")),
    "blank columns of a spreadsheet": "a.jpg,x,,\ncat/1.JPG,y,,\ncat/Zoë.jpg,z,,\n",
    "the same row twice": PLAIN + "a.jpg,x\n./a.jpg, x\n",
    "an empty label": PLAIN + "two words/b.jpg,\n",
}


@pytest.mark.parametrize("content", CLEAR.values(), ids=CLEAR.keys())
def test_u03_what_is_clear_attaches_to_its_file(photos: Path, content: str | bytes) -> None:
    listing = listed(photos, content)
    assert labels(listing) == LABELS
    [note] = [note for note in listing.notes if "labels.csv" in note]
    assert "1 of 4 files without a label (two words/b.jpg), 0 of " in note
    assert note.endswith("rows without a file")


def test_u03_absolute_paths_fit_by_either_name_of_the_folder(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(photos)
    content = f"{photos}/a.jpg,x\n{tmp_path}/link/cat/1.JPG,y\n{photos}/../photos/cat/Zoë.jpg,z\n"
    (tmp_path / "labels.csv").write_text(content)
    assert labels(list_images(tmp_path / "link", labels=tmp_path / "labels.csv")) == LABELS


def test_u03_a_source_named_from_inside_of_it_is_the_same(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "labels.csv").write_text("photos/a.jpg,x\ncat/1.JPG,y\nphotos\\cat\\Zoë.jpg,z\n")
    monkeypatch.chdir(photos)
    assert labels(list_images(Path(), labels=Path("labels.csv"))) == LABELS


@pytest.mark.parametrize("head", ["path,label", "Filename,Class", "file_name, category", "id,species", "foto,label"])
def test_u03_a_header_is_taken_as_one_and_said(photos: Path, head: str) -> None:
    listing = listed(photos, f"{head}\n{PLAIN}")
    assert labels(listing) == LABELS
    assert any(f"row 1 ({head}) is taken as a header" in note for note in listing.notes)
    assert any("0 of 3 rows without a file" in note for note in listing.notes)


def test_u03_a_first_row_that_fits_a_file_is_no_header(photos: Path) -> None:
    (photos / "id").mkdir()
    (photos / "id" / "label.jpg").write_bytes(b"")
    assert labels(listed(photos, "id/label.jpg,class\n")) == {"id/label.jpg": "class"}
    listing = listed(photos, "gone.jpg,class\na.jpg,x\n")
    assert any("1 of 2 rows without a file (row 1: gone.jpg)" in note for note in listing.notes)


def test_u03_commas_may_stand_in_labels_and_paths(photos: Path) -> None:
    (photos / "b,c.jpg").write_bytes(b"")
    assert labels(listed(photos, "a.jpg;Doe, John\ncat/1.JPG;Roe, Jane\n"))["a.jpg"] == "Doe, John"
    assert labels(listed(photos, "b,c.jpg\tx\na.jpg\ty\n")) == {"b,c.jpg": "x", "a.jpg": "y"}
    assert labels(listed(photos, '"b,c.jpg","Doe, ""J"""\n')) == {"b,c.jpg": 'Doe, "J"'}


def test_u03_quotes_in_a_label_stay(photos: Path) -> None:
    content = 'a.jpg, \'x\'\ncat/1.JPG,"""y"""\ncat/Zoë.jpg,  "Doe, ""Z"""\n'
    assert labels(listed(photos, content)) == {"a.jpg": "'x'", "cat/1.JPG": '"y"', "cat/Zoë.jpg": 'Doe, "Z"'}


def test_u03_a_name_as_it_stands_goes_before_any_reading_of_it(photos: Path) -> None:
    for name in ("photos/a.jpg", "cat\\1.JPG", " a.jpg", "A.jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"")
    content = "photos/a.jpg,1\ncat\\1.JPG,2\n a.jpg,3\nA.jpg,4\na.jpg,5\n"
    assert labels(listed(photos, content)) == {
        "photos/a.jpg": "1",
        "cat\\1.JPG": "2",
        " a.jpg": "3",
        "A.jpg": "4",
        "a.jpg": "5",
    }


def test_u03_a_row_that_is_sure_of_a_file_goes_before_guesses(photos: Path) -> None:
    listing = listed(photos, "a.jpg,x\nA.jpg,y\nphotos/a.jpg,z\n")
    assert labels(listing) == {"a.jpg": "x"}
    assert listing.notes[-1].endswith("2 of 3 rows without a file (row 2: A.jpg, row 3: photos/a.jpg)")


def test_u03_what_fits_nothing_is_counted_and_named(photos: Path) -> None:
    rows = "".join(f"gone/{number}.jpg,x\n" for number in range(5))
    [note] = [note for note in listed(photos, f"a.jpg,x\n{rows}").notes if "labels.csv" in note]
    assert "3 of 4 files without a label (cat/1.JPG, cat/Zoë.jpg, two words/b.jpg)" in note
    assert "5 of 6 rows without a file (row 2: gone/0.jpg, row 3: gone/1.jpg, row 4: gone/2.jpg, ...)" in note


UNCLEAR = {
    "rows that disagree": ("a.jpg,x\ncat/1.JPG,y\n./a.jpg,z\n", r"rows 1 and 3 give a\.jpg the labels 'x' and 'z'"),
    "guesses that disagree": ("A.jpg,x\nphotos/a.jpg,z\n", r"rows 1 and 2 give a\.jpg the labels 'x' and 'z'"),
    "a label and none": ("a.jpg,x\na.jpg,\n", "rows 1 and 2"),
    "one column": ("a.jpg,x\n\ncat/1.JPG\n", "row 3: expected two columns"),
    "three columns": ("a.jpg,x,train\n", "row 1: expected two columns"),
    "two delimiters": ("a.jpg;x\ncat/1.JPG,y\ncat/Zoë.jpg;z\n", "row 2: expected two columns"),
    "no row fits": (
        "q/a.jpg,x\nq/b.jpg,y\n",
        r"none of 2 rows fits .*: row 1 names q/a\.jpg, and the first file is a\.jpg",
    ),
    "a header alone": ("path,label\n", "has no rows"),
    "nothing": ("", "has no rows"),
    "a label with a line break": ('a.jpg,"x\ny"\n', "row 1: the label has several lines; close its quote"),
    "a quote that does not end": (
        'cat/1.JPG,y\na.jpg,"x\ncat/Zoë.jpg,z\n',
        "row 2: the label has several lines; close its quote",
    ),
    "Latin-1": ("a.jpg,x\ncat/Zoë.jpg,z\n".encode("latin-1"), "row 2 is not UTF-8 text"),
    "a label in Latin-1": (
        "a.jpg,x\ncat/1.JPG,Möwe\n".encode("latin-1"),
        "row 2 is not UTF-8 text; save the file as UTF-8",
    ),
    "UTF-16 without its mark": (PLAIN.encode("utf-16-le"), "line 1: a NUL byte"),
    "half of UTF-16": (b"\xff\xfea\x00\x00", "not the UTF-16-LE text that it says"),
    "a NUL byte": ("a.jpg,x\ncat/1.JPG,\0y\n", "line 2: a NUL byte"),
    "a path over two lines": ('"a\nb.jpg",x\n', r"row 1 names 'a\\nb\.jpg'"),
    "a huge field": ("a.jpg,x\ncat/1.JPG," + "y" * 140_000, "row 2: field larger than field limit"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0", "a NUL byte"),
}


@pytest.mark.parametrize(("content", "message"), UNCLEAR.values(), ids=UNCLEAR.keys())
def test_u03_what_is_not_clear_is_refused_with_its_row(photos: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataInvalid, match=message) as refused:
        listed(photos, content)
    assert "labels.csv" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_u03_a_row_that_fits_two_files_is_refused_unless_it_names_one(photos: Path) -> None:
    (photos / "A.jpg").write_bytes(b"")
    with pytest.raises(DataInvalid, match=r"row 2: a\.JPG may be A\.jpg or a\.jpg"):
        listed(photos, "cat/1.JPG,y\na.JPG,x\n")
    assert labels(listed(photos, "a.jpg,x\n./A.jpg,y\n")) == {"a.jpg": "x", "A.jpg": "y"}
    for form in ("NFC", "NFD"):
        (photos / unicodedata.normalize(form, "É.jpg")).write_bytes(b"")
    with pytest.raises(DataInvalid, match=r"row 1: é\.jpg may be"):
        listed(photos, "é.jpg,x\n")
    assert len(labels(listed(photos, f"É.jpg,x\n{unicodedata.normalize('NFD', 'É.jpg')},y\n"))) == 2


@pytest.mark.parametrize("label", ["x" * 512, "x" * 513, "a\tb", "a\x85b", "ok ü", "\u200b"])
def test_u03_a_label_is_taken_where_the_store_would_take_it(photos: Path, label: str) -> None:
    try:
        taken = check_label(label)
    except InvalidLabel:
        with pytest.raises(DataInvalid, match="row 1: the label"):
            listed(photos, f'a.jpg,"{label}"\n')
    else:
        assert labels(listed(photos, f"a.jpg,{label}\n")) == {"a.jpg": taken}


def test_u03_a_file_whose_name_is_not_utf8_is_named_by_its_bytes(photos: Path) -> None:
    (photos / os.fsdecode(b"Zo\xeb.jpg")).write_bytes(b"")
    assert labels(listed(photos, b"Zo\xeb.jpg,x\n")) == {os.fsdecode(b"Zo\xeb.jpg"): "x"}


def test_u03_what_is_no_file_of_labels_is_one_sentence(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PathMissing, match=r"none\.csv does not exist; --labels takes"):
        list_images(photos, labels=photos / "none.csv")
    with pytest.raises(PathMissing, match="does not exist"):
        list_images(photos, labels=photos / "a.jpg" / "none.csv")
    with pytest.raises(DataInvalid, match="is a directory"):
        list_images(photos, labels=photos)
    with pytest.raises(StorageFailed, match="cannot read"):
        list_images(photos, labels=photos / ("x" * 300))

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # as root, no permission keeps a test out
    with pytest.raises(StorageFailed, match=r"cannot read .*: Permission denied; check the permissions"):
        list_images(photos, labels=photos / "a.jpg")
