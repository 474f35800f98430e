"""Points follow their files: to the path that a folder is called by, and to where it moved."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.points import NewPoint, Source

if TYPE_CHECKING:
    from conftest import Photos

Filled = Callable[..., Path]
NAMES = tuple(f"cat/{n}.png" for n in range(6))


def respell(photos: Photos, root: Path) -> None:
    """Let points have come from this path, as an older dinodex wrote it: absolute, with symlinks and `..` in it."""
    stored = photos.collection.stored()
    photos.collection.put(
        [
            NewPoint(id_, each.content_hash, None, source=replace(each.source, path=f"{root}/{id_}"))
            for id_, each in stored.items()
            if each.source is not None
        ]
    )


def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read.append(self.name) or plain(self))
    return read


@pytest.mark.parametrize("keep_times", [True, False])
def test_u01_dead_points_of_a_folder_that_was_moved_or_copied_are_found(
    photos: Photos, filled: Filled, tmp_path: Path, keep_times: bool
) -> None:
    old = filled("a", *NAMES)
    photos.index(old)
    new = tmp_path / "disk/b"
    shutil.copytree(old, new, copy_function=shutil.copy2 if keep_times else shutil.copyfile)
    shutil.rmtree(old)
    (new / "cat/0.png").unlink()
    result = photos.index(new, prune=True)
    assert (result.created, result.replaced, result.unchanged, result.pruned) == (0, 0, 5, 1)
    assert photos.files == {name: f"{new}/{name}" for name in NAMES[1:]}


def test_u01_dead_points_of_a_folder_that_moved_are_found_by_a_later_run_too(photos: Photos, filled: Filled) -> None:
    old = filled("a", *NAMES)
    photos.index(old)
    (old / "cat/0.png").unlink()
    new = old.rename(old.with_name("b"))
    assert photos.index(new).unchanged == 5
    filled("a", "cat/9.png")  # something else is called as it was
    assert photos.index(new, prune=True).pruned == 1


def test_u01_a_folder_that_moved_is_followed_with_a_prefix_and_with_files_that_changed(
    photos: Photos, filled: Filled
) -> None:
    old = filled("a", *NAMES)
    photos.index(old, id_prefix="p/")
    new = old.rename(old.with_name("b"))
    (new / "cat/1.png").write_text("changed")
    (new / "cat/2.png").unlink()
    result = photos.index(new, id_prefix="p/", prune=True)
    assert (result.created, result.replaced, result.unchanged, result.pruned) == (0, 1, 4, 1)


def test_u01_points_with_the_paths_of_an_older_version_are_found_without_reading_files(
    photos: Photos, filled: Filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = filled("a", *NAMES)
    photos.index(root)
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(root)
    read = read_files(monkeypatch)
    for number, path in enumerate((tmp_path / "x/../a", tmp_path / "link", tmp_path / "gone/../a")):
        respell(photos, path)
        (root / NAMES[number]).unlink()
        result = photos.index(root, prune=True)
        assert (result.unchanged, result.pruned) == (5 - number, 1), path
        assert photos.files == {name: f"{root}/{name}" for name in NAMES[number + 1 :]}
    assert read == []


def test_u01_a_folder_that_moved_is_known_by_a_few_of_its_files(
    photos: Photos, filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = filled("a", *(f"{n:03}.png" for n in range(300)))
    photos.index(old)
    new = old.rename(old.with_name("b"))
    read = read_files(monkeypatch)
    assert photos.index(new).unchanged == 300
    assert 0 < len(read) <= 32


def test_u01_files_of_a_disk_that_was_copied_are_looked_for_where_the_others_are(
    photos: Photos, filled: Filled
) -> None:
    old = filled("a", *NAMES)
    for name in NAMES:
        photos.put(name, name.encode(), Source(f"{old}/{name}", len(name), 0, mounted=True))
    new = old.rename(old.with_name("b"))
    (new / NAMES[0]).unlink()
    assert photos.index(new, prune=True).pruned == 1


def test_u01_a_copy_of_a_folder_that_is_still_there_takes_nothing_from_it(photos: Photos, filled: Filled) -> None:
    old = filled("a", *NAMES)
    photos.index(old)
    new = shutil.copytree(old, old.with_name("b"))
    (new / "cat/0.png").unlink()
    result = photos.index(new, prune=True, prune_many=True)
    assert (result.unchanged, result.pruned) == (5, 0)
    assert photos.files == {name: f"{old}/{name}" for name in NAMES}


def test_u01_a_copy_on_another_disk_prunes_nothing_while_the_first_is_not_mounted(
    photos: Photos, filled: Filled
) -> None:
    mounted = filled("a", *NAMES)
    photos.index(mounted)
    copy = shutil.copytree(mounted, mounted.with_name("b"))
    (copy / NAMES[0]).unlink()
    shutil.rmtree(mounted)
    mounted.mkdir()
    result = photos.index(copy, prune=True, prune_many=True)
    assert (result.unchanged, result.pruned) == (5, 0)
    assert photos.files[NAMES[0]] == f"{mounted}/{NAMES[0]}"


def test_u02_other_pictures_under_the_names_of_a_folder_that_is_gone_are_no_folder_that_moved(
    photos: Photos, filled: Filled
) -> None:
    old = filled("card1", *NAMES)
    photos.index(old)
    shutil.rmtree(old)
    new = filled("card2", *NAMES, content="other")
    (new / NAMES[0]).write_text(NAMES[0])  # one of them is the same picture, by chance
    result = photos.index(new, prune=True, prune_many=True)
    assert (result.replaced, result.unchanged, result.other_source, result.pruned) == (0, 1, 5, 0)
    assert len(photos.files) == 6
