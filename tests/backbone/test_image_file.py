"""Image files are read where they are files of the size of an image, and refused at once where they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backbone.errors import PathMissing, StorageFailed, TooManyBytes
from backbone.image_file import read_image_file


def test_a_file_is_read_up_to_the_limit_and_not_beyond(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_image_file(tmp_path / "a", 5) == b"12345"
    with pytest.raises(TooManyBytes, match="has 5 bytes and the limit is 4"):
        read_image_file(tmp_path / "a", 4)


def test_u12_a_pipe_a_folder_and_a_device_are_refused_without_a_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(StorageFailed, match="it is not a regular file"):
            read_image_file(path)
    with pytest.raises(PathMissing):
        read_image_file(tmp_path / "none")
