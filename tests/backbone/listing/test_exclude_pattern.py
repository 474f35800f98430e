from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from backbone import list_images

NAMES = (
    "a.jpg",
    "raw/b.jpg",
    "cat/raw/c.jpg",
    "cat/RAW/d.jpg",
    "cat/e-draft.jpg",
    "raw.jpg",
    "2019/x/y/raw/f.jpg",
    "[1]/é.jpg",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "left_out"),
    [
        ("raw", {"raw/b.jpg", "cat/raw/c.jpg", "2019/x/y/raw/f.jpg"}),
        ("raw/", {"raw/b.jpg", "cat/raw/c.jpg", "2019/x/y/raw/f.jpg"}),
        ("/raw", {"raw/b.jpg"}),
        ("./raw", {"raw/b.jpg"}),
        ("cat/raw", {"cat/raw/c.jpg"}),
        ("raw/*", {"raw/b.jpg"}),
        ("**/raw/*", {"raw/b.jpg", "cat/raw/c.jpg", "2019/x/y/raw/f.jpg"}),
        ("2019/**/raw", {"2019/x/y/raw/f.jpg"}),
        ("cat/**", {"cat/raw/c.jpg", "cat/RAW/d.jpg", "cat/e-draft.jpg"}),
        ("*/raw", {"cat/raw/c.jpg"}),
        ("*-draft.*", {"cat/e-draft.jpg"}),
        ("[rR]??", {"raw/b.jpg", "cat/raw/c.jpg", "cat/RAW/d.jpg", "2019/x/y/raw/f.jpg"}),
        ("[!r]*.jpg", set(NAMES) - {"raw.jpg"}),
        ("*.jpg/", set()),
        ("A.JPG", set()),
        ("[", set()),
        ("", set()),
        ("/", set()),
        ("cat\\raw", set()),
        ("[[]1]", {"[1]/é.jpg"}),
        (unicodedata.normalize("NFD", "é.jpg"), {"[1]/é.jpg"}),
    ],
)
def test_u07_a_pattern_leaves_out_what_gitignore_would(folder: Path, pattern: str, left_out: set[str]) -> None:
    (folder / "always.jpg.png").write_bytes(b"")
    listing = list_images(folder, exclude=[pattern])
    assert set(NAMES) - {image.id for image in listing.images} == left_out
    assert {name for name in NAMES if not listing.covers(name)} == left_out
    assert (f"nothing is left out by exclude ({pattern})" in listing.notes) is (not left_out)


def test_u07_what_patterns_leave_out_is_counted_by_pattern(folder: Path) -> None:
    listing = list_images(folder, exclude=["raw/", "[a-q]*.jpg", "none"])
    assert [image.id for image in listing.images] == ["[1]/é.jpg", "raw.jpg"]
    assert listing.left_out.excluded == {"raw/": 3, "[a-q]*.jpg": 3}
    assert listing.notes == (
        "left out: 6 files or folders by exclude ([a-q]*.jpg, raw/)",
        "nothing is left out by exclude (none)",
    )
