"""What `--prune` deletes: what was looked for and is not there, and nothing else."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.errors import SourceUnreachable, TooManyGone
from service.ingestion import pruning
from service.ingestion.job import IndexResult
from service.points import Source

if TYPE_CHECKING:
    from conftest import Photos

Filled = Callable[..., Path]
SHARED_MEMORY = Path("/dev/shm")  # a file system of its own, on Linux
NAMES = [f"cat/{n:02}.png" for n in range(10)] + [f"dog/{n:02}.jpg" for n in range(10)]


@pytest.fixture
def source(photos: Photos, filled: Filled) -> Path:
    """Twenty files of two formats in two folders, and their points."""
    folder = filled("a", *NAMES)
    assert photos.index(folder).created == 20
    return folder


def pruned(result: IndexResult) -> int | type[Exception]:
    return result.pruned if result.not_pruned is None else type(result.not_pruned)


def prune(photos: Photos, source: Path, **options: object) -> int | type[Exception]:
    return pruned(photos.index(source, prune=True, **options))


def test_u01_other_formats_a_list_a_subfolder_and_a_pattern_prune_nothing_that_they_do_not_look_at(
    photos: Photos, source: Path
) -> None:
    (source / "one.txt").write_text("cat/00.png\n")
    before = photos.files
    (source / "dog/00.jpg").unlink()
    assert prune(photos, source, formats=("PNG",)) == 0
    assert prune(photos, source / "one.txt") == 0
    assert prune(photos, source, exclude=["dog"]) == 0
    assert prune(photos, source / "cat") == 0
    assert before.items() <= photos.files.items()
    assert prune(photos, source, formats=("JPEG",)) == 1
    assert set(before) - set(photos.files) == {"dog/00.jpg"}


def test_u01_points_from_a_hidden_folder_and_from_one_that_systems_leave_stay(photos: Photos, source: Path) -> None:
    for name in (".hidden", "@eaDir", "cat/.thumbs"):
        photos.put(f"{name}/1.png", b"", Source(str(source / name / "1.png"), 0, 0))
    assert prune(photos, source, prune_many=True) == 0
    assert len(photos.files) == 23


def test_u01_a_subfolder_prunes_what_came_with_the_folder_above_it_and_is_gone(photos: Photos, source: Path) -> None:
    (source / "cat/00.png").unlink()
    assert prune(photos, source / "cat") == 1
    assert "cat/00.png" not in photos.files
    assert photos.index(source).unchanged == 19  # those that the subfolder has are its own points


def test_u01_a_point_of_a_subfolder_stays_when_the_folder_above_is_indexed(photos: Photos, source: Path) -> None:
    photos.index(source / "cat")
    assert prune(photos, source) == 0
    assert {"00.png", "cat/00.png"} <= set(photos.files)


def test_u01_points_that_came_over_rest_are_never_pruned(photos: Photos, source: Path) -> None:
    photos.put("cat/99.png", b"by hand")
    assert prune(photos, source, prune_many=True) == 0
    assert "cat/99.png" in photos.files


def test_u01_a_tenth_is_pruned_and_more_only_when_it_is_confirmed(photos: Photos, source: Path) -> None:
    for number in range(2):
        (source / f"cat/{number:02}.png").unlink()
    assert prune(photos, source) == 2  # of 20
    for number in range(2, 4):
        (source / f"cat/{number:02}.png").unlink()
    new = source / "new.png"
    new.write_text("new")
    result = photos.index(source, prune=True)  # 2 of 18
    assert (pruned(result), result.created, len(photos.files)) == (TooManyGone, 1, 19)
    assert "2 of 18" in str(result.not_pruned)
    assert prune(photos, source, prune_many=True) == 2


def test_u01_one_file_of_a_few_is_pruned(photos: Photos, filled: Filled) -> None:
    source = filled("few", "1.png", "2.png", "3.png")
    photos.index(source)
    (source / "1.png").unlink()
    assert prune(photos, source) == 1
    filled("few", "1.png")
    photos.index(source)
    for name in ("1.png", "2.png"):
        (source / name).unlink()
    assert prune(photos, source) is TooManyGone


def test_u01_a_link_to_what_is_not_there_stops_it_also_when_much_is_confirmed(
    photos: Photos, source: Path, filled: Filled
) -> None:
    disk = filled("disk", "2020/1.png")
    (source / "nas").symlink_to(disk)
    assert photos.index(source).created == 1
    (source / "cat/00.png").unlink()
    disk.rename(disk.with_name("unplugged"))
    for confirmed in (False, True):
        result = photos.index(source, prune=True, prune_many=confirmed)
        assert isinstance(result.not_pruned, SourceUnreachable)
        assert str(source / "nas") in str(result.not_pruned)
    assert len(photos.files) == 21
    disk.with_name("unplugged").rename(disk)
    assert prune(photos, source) == 1
    assert "nas/2020/1.png" in photos.files


def test_u01_an_empty_mount_point_where_points_had_been_stops_it(photos: Photos, source: Path, filled: Filled) -> None:
    filled("a", *(f"more/{n:03}.png" for n in range(100)), "disk/1.png", "disk/2.jpg")
    photos.index(source)
    shutil.rmtree(source / "disk")
    (source / "disk").mkdir()
    (source / "disk/.keep").touch()
    assert prune(photos, source, formats=("PNG",)) is SourceUnreachable  # though it looks for one of the two alone
    assert prune(photos, source) is SourceUnreachable
    assert prune(photos, source, prune_many=True) == 2


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system."""
    if not SHARED_MEMORY.is_dir() or SHARED_MEMORY.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system")
    folder = Path(tempfile.mkdtemp(dir=SHARED_MEMORY))
    yield folder
    shutil.rmtree(folder)


def test_u01_a_disk_is_missed_where_its_mount_point_went_or_holds_something_else(
    photos: Photos, source: Path, other_disk: Path
) -> None:
    (other_disk / "1.png").write_text("on the disk")
    (source / "disk").symlink_to(other_disk)  # stands for a mount, which takes root
    photos.index(source)
    (source / "disk").unlink()
    result = photos.index(source, prune=True)
    assert isinstance(result.not_pruned, SourceUnreachable)
    assert f"{source}/disk/1.png" in str(result.not_pruned)
    (source / "disk").mkdir()
    (source / "disk/2.png").write_text("copied while the disk was away")
    assert prune(photos, source) is SourceUnreachable
    shutil.rmtree(source / "disk")
    assert prune(photos, source, prune_many=True) == 2


def test_u01_a_file_that_went_from_a_disk_that_is_there_is_gone(photos: Photos, source: Path, other_disk: Path) -> None:
    for name in ("1.png", "2.png"):
        (other_disk / name).write_text(name)
    (source / "disk").symlink_to(other_disk)
    photos.index(source)
    (other_disk / "1.png").unlink()
    assert prune(photos, source) == 1


def test_u01_a_link_to_an_empty_folder_stops_it_and_an_empty_folder_that_held_one_file_does_not(
    photos: Photos, source: Path, filled: Filled
) -> None:
    (source / "link").symlink_to(filled("disk", "1.png"))
    filled("a", "single/1.png")
    photos.index(source)
    (source / "single/1.png").unlink()
    assert prune(photos, source) == 1
    (source / "link/1.png").unlink()
    assert prune(photos, source) is SourceUnreachable


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(116, "Stale file handle")])
def test_u01_what_cannot_be_looked_at_is_not_gone(
    photos: Photos, source: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    (source / "cat/00.png").unlink()
    plain = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        if path.name == "00.png":
            raise error
        return plain(path, **options)

    monkeypatch.setattr(pruning.Path, "stat", stat)
    result = photos.index(source, prune=True, prune_many=True)
    assert isinstance(result.not_pruned, SourceUnreachable)
    assert error.strerror in str(result.not_pruned)
    assert len(photos.files) == 20


def test_u01_a_file_that_became_a_folder_and_a_folder_that_became_a_file_or_went_are_gone(
    photos: Photos, source: Path, filled: Filled
) -> None:
    filled("a", "file/1.png", "went/in/1.png")
    photos.index(source)
    for name in ("file", "went"):
        shutil.rmtree(source / name)
    (source / "file").touch()
    (source / "cat/00.png").unlink()
    (source / "cat/00.png").mkdir()
    gone = {"file/1.png", "went/in/1.png", "cat/00.png"}
    before = photos.files
    assert prune(photos, source, prune_many=True) == 3
    assert set(before) - set(photos.files) == gone


def test_u01_a_file_that_is_refused_or_vanishes_while_the_job_runs_stays(photos: Photos, source: Path) -> None:
    (source / "cat/00.png").unlink()
    (source / "cat/00.png").symlink_to(source / "nowhere")
    result = photos.index(source, prune=True)
    assert (result.refused, pruned(result)) == (1, 0)
    assert "cat/00.png" in photos.files


def test_u01_a_job_that_is_stopped_while_it_looks_for_what_is_gone_prunes_nothing(
    photos: Photos, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    (source / "cat/00.png").unlink()
    monkeypatch.setattr(pruning, "_missing_from", lambda folder, _: stop.set() or folder.path)
    result = photos.index(source, prune=True, stop=stop)
    assert (result.interrupted, result.pruned, len(photos.files)) == (True, 0, 20)


def test_u01_a_prefix_prunes_its_own(photos: Photos, source: Path) -> None:
    photos.index(source, id_prefix="copy/")
    assert len(photos.files) == 40
    (source / "cat/00.png").unlink()
    assert prune(photos, source, id_prefix="copy/") == 1
    assert "copy/cat/00.png" not in photos.files
    assert "cat/00.png" in photos.files
    assert prune(photos, source) == 1
