"""A folder whose path is not UTF-8 is indexed as any other; `file_reader` and `pruning` see its real path."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.errors import InvalidSource
from service.ingestion.kept_path import kept, opened
from service.points import Source, Stored

if TYPE_CHECKING:
    from conftest import Photos

CAFE = os.fsdecode(b"caf\xe9")
NAMES = ("1.jpg", "100% é.jpg", "2.jpg")


@pytest.mark.parametrize(
    "path", ["/a/é 100%25.jpg", f"/{CAFE}/é 100%25.jpg", f"/{CAFE}/{CAFE}", "/a\nb/1.jpg", "/a/file:/1"]
)
def test_u13_a_path_comes_back_as_it_went(path: str) -> None:
    stored = kept(Source(path, 1, 2, mounted=True))
    assert stored.path.isprintable()
    there = opened({"a": Stored(b"", None, stored), "b": Stored(b"", None, None)})
    assert there == {"a": Stored(b"", None, Source(path, 1, 2, mounted=True)), "b": Stored(b"", None, None)}


def test_u13_text_is_kept_as_it_is_and_what_is_too_long_is_refused() -> None:
    assert kept(Source("/a/é.jpg", 1, 2)).path == "/a/é.jpg"
    with pytest.raises(InvalidSource):
        kept(Source("/" + "é" * 4096, 1, 2))


@pytest.mark.parametrize("name", [CAFE, "a\nb"])
def test_u13_a_folder_of_such_a_name_is_indexed_again_and_pruned(
    photos: Photos, filled: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    folder = filled(f"{name}/photos", *NAMES)
    assert photos.index(folder).created == 3
    assert photos.index(folder).unchanged == 3
    (folder / "1.jpg").write_text("changed")
    (folder / "2.jpg").unlink()
    result = photos.index(folder, prune=True)
    assert (result.replaced, result.unchanged, result.pruned) == (1, 1, 1)
    moved = (tmp_path / name).rename(tmp_path / "moved") / "photos"
    (moved / "1.jpg").unlink()
    result = photos.index(moved, prune=True)
    assert (result.unchanged, result.pruned) == (1, 1)
    assert photos.files == {"100% é.jpg": f"{moved}/100% é.jpg"}
