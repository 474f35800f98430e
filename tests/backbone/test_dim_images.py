"""Dim images: 12 bits in 16 are told of once, with what to do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, picture
from PIL import Image
from tiffs import tiff_of

from backbone.decode import DecodeLimits
from backbone.dim_images import LOOKED_AT, dim_note
from backbone.listing import list_images


def grey(most: int) -> bytes:
    return encoded(Image.fromarray(np.linspace(0, most, 100).reshape(10, 10).astype(np.uint16)))


def test_u16_images_that_use_the_lower_12_of_16_bits_are_counted_in_one_line(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"dim{index}.png").write_bytes(grey(4095))
    (tmp_path / "bright.png").write_bytes(grey(4096))
    (tmp_path / "black.png").write_bytes(grey(0))
    (tmp_path / "colour.png").write_bytes(encoded(picture()))
    (tmp_path / "photo.jpg").write_bytes(encoded(picture(), "JPEG"))
    (tmp_path / "broken.png").write_bytes(grey(4095)[:70])
    (tmp_path / "white.tif").write_bytes(tiff_of(np.full((4, 4, 1), 4095), 0, bits=16, order=">"))
    (tmp_path / "says12.tif").write_bytes(tiff_of(np.full((4, 4, 1), 4095), 1, bits=12))
    note = dim_note(list_images(tmp_path).images)
    assert note is not None
    assert note.startswith("4 of the 6 images of 16 bits that were looked at use only the lower 12")


def test_u16_where_all_is_well_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "bright.png").write_bytes(grey(65_535))
    (tmp_path / "photo.jpg").write_bytes(encoded(picture(), "JPEG"))
    assert dim_note(list_images(tmp_path).images) is None
    assert dim_note([]) is None


def test_u16_of_many_files_some_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3 * LOOKED_AT):
        (tmp_path / f"{index:03}.png").write_bytes(b"")
    seen: list[str] = []
    monkeypatch.setattr("backbone.dim_images.read_image_file", lambda path: seen.append(path.name) or grey(4095))
    note = dim_note(list_images(tmp_path).images)
    assert note is not None
    assert f"{LOOKED_AT} of the {LOOKED_AT} images" in note
    assert seen[-1] > f"{2 * LOOKED_AT:03}"


def test_u16_what_is_no_file_or_too_large_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "dim.png").write_bytes(grey(4095))
    os.mkfifo(tmp_path / "pipe.png")
    for name, size in (("at.png", DecodeLimits.max_bytes), ("over.png", DecodeLimits.max_bytes + 1)):
        (tmp_path / name).write_bytes(grey(4095))
        os.truncate(tmp_path / name, size)  # bytes behind an image are none of it
    note = dim_note(list_images(tmp_path).images)
    assert note is not None
    assert note.startswith("2 of the 2 images")
