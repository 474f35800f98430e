"""Which points came from a folder, however its path was spelled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.errors import SourceUnreachable
from service.ingestion.source_folder import SourceFolder, is_missing

if TYPE_CHECKING:
    from conftest import Photos

Filled = Callable[..., Path]


def test_a_folder_knows_its_files_by_every_path_that_leads_to_it(tmp_path: Path, filled: Filled) -> None:
    root = filled("real/a", "cat/1.png")
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(root)
    (tmp_path / "above").symlink_to(tmp_path / "real")
    folder = SourceFolder(tmp_path / "link")
    assert folder.path_of("cat/1.png") == str(root / "cat/1.png")
    for path in ("real/a", "link", "above/a", "x/../real/a", "gone/../real/a", "above/a/cat/.."):
        assert folder.relative_of(f"{tmp_path}/{path}/cat/1.png") == "cat/1.png", path
        assert folder.relative_of(f"{tmp_path}/{path}/went/in/1.png") == "went/in/1.png", path
        assert folder.relative_of(f"{tmp_path}/{path}/1.png") == "1.png", path


def test_another_folder_of_the_same_name_or_the_one_above_is_another_source(tmp_path: Path, filled: Filled) -> None:
    folder = SourceFolder(filled("a", "1.png"))
    for path in ("b/1.png", "ab/1.png", "1.png", "a/../b/1.png", "../1.png", "gone/a/1.png"):
        assert folder.relative_of(f"{tmp_path}/{path}") is None, path


def test_the_root_of_all_is_a_folder_too() -> None:
    folder = SourceFolder(Path("/"))
    assert folder.path_of("a/1.png") == "/a/1.png"
    assert folder.relative_of("/a/1.png") == "a/1.png"


def test_a_folder_that_went_meanwhile_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachable, match="cannot be looked at"):
        SourceFolder(tmp_path / "gone")


def test_a_real_path_that_is_no_text_is_kept_as_its_uri(photos: Photos, tmp_path: Path, filled: Filled) -> None:
    root = filled("line\nbreak", "1.png")
    (tmp_path / "link").symlink_to(root)
    assert photos.index(tmp_path / "link").created == 1
    assert photos.index(tmp_path / "link").unchanged == 1
    assert photos.files == {"1.png": f"file://{tmp_path}/line%0Abreak/1.png"}


def test_nothing_is_missing_that_cannot_be_looked_at(tmp_path: Path, filled: Filled) -> None:
    filled("a", "1.png")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    assert is_missing(f"{tmp_path}/gone")
    assert is_missing(f"{tmp_path}/a/1.png/2.png")
    assert not is_missing(f"{tmp_path}/dangling")
    assert not is_missing(f"{tmp_path}/{'x' * 300}")


@pytest.mark.parametrize("spelling", ["{0}/", "{0}/.", "{1}/x/../a", "{1}/link", "{1}/above/a"])
def test_u01_dead_points_are_found_however_the_folder_was_named(
    photos: Photos, tmp_path: Path, filled: Filled, spelling: str
) -> None:
    root = filled("a", "cat/0.png", "cat/1.png", "2.png")
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(root)
    (tmp_path / "above").symlink_to(tmp_path)
    named = Path(spelling.format(root, tmp_path))
    photos.index(named)
    (root / "cat/0.png").unlink()
    result = photos.index(root, prune=True)
    assert (result.unchanged, result.pruned) == (2, 1)
    (root / "cat/1.png").unlink()
    assert photos.index(named, prune=True).pruned == 1


def test_u01_dead_points_are_found_where_the_folder_was_named_from_another_directory(
    photos: Photos, tmp_path: Path, filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = filled("a", "0.png", "1.png")
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    photos.index(Path("../a"))
    (root / "0.png").unlink()
    monkeypatch.chdir(root)
    assert photos.index(Path(), prune=True).pruned == 1
