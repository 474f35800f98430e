from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backbone.embedding import Embedded
from backbone.errors import PathMissing
from backbone.listing import ListedImage
from training.evaluation.feature_cache import cached, default_directory, key_of

FEATURES = Embedded(
    vectors=np.eye(3, 4, dtype=np.float32),
    positions=np.array([0, 2, 3]),
    digests=np.arange(96, dtype=np.uint8).reshape(3, 32),
    unread=0,
)


@pytest.fixture
def images(tmp_path: Path) -> list[ListedImage]:
    found = []
    for number in range(3):
        path = tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * (10 + number))
        found.append(ListedImage(path.name, path, "a"))
    return found


def never() -> Embedded:
    raise AssertionError("it was kept")


def same(found: Embedded) -> bool:
    return all(
        np.array_equal(getattr(found, name), getattr(FEATURES, name)) for name in ("vectors", "positions", "digests")
    )


def test_what_was_made_once_is_read_the_next_time(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "cache"
    assert cached(directory, "key", lambda: FEATURES) is FEATURES
    assert same(cached(directory, "key", never))
    assert [path.name for path in directory.iterdir()] == ["key.features"]


def test_without_a_directory_nothing_is_kept() -> None:
    assert cached(None, "key", lambda: FEATURES) is FEATURES
    with pytest.raises(AssertionError):
        cached(None, "key", never)


def test_another_key_is_another_result(tmp_path: Path) -> None:
    cached(tmp_path, "key", lambda: FEATURES)
    with pytest.raises(AssertionError):
        cached(tmp_path, "other", never)


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: flip(data, 3),
        lambda data: flip(data, len(data) // 2),
        lambda data: data.replace(b"key", b"kex", 1),  # a file that was renamed
        lambda data: data.partition(b"\n")[2],
        lambda data: b"something else entirely",
    ],
)
def test_a_damaged_or_foreign_file_is_made_anew(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    cached(tmp_path, "key", lambda: FEATURES)
    path = tmp_path / "key.features"
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert cached(tmp_path, "key", lambda: FEATURES) is FEATURES
    assert len(caplog.messages) == 1
    assert "computed again" in caplog.text
    assert same(cached(tmp_path, "key", never))


def test_a_directory_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    assert cached(blocked / "cache", "key", lambda: FEATURES) is FEATURES
    assert "not kept" in caplog.text


def test_a_result_that_lacks_files_for_the_disk_s_fault_is_not_kept(tmp_path: Path) -> None:
    cached(tmp_path, "key", lambda: replace(FEATURES, unread=1))
    assert list(tmp_path.iterdir()) == []


def test_the_key_follows_the_artifact_and_the_images_and_not_the_labels(images: list[ListedImage]) -> None:
    key = key_of("f", images)
    assert key_of("f", images) == key
    assert key_of("f", [replace(image, label="b") for image in images]) == key
    others = [
        key_of("g", images),
        key_of("f", images[:2]),
        key_of("f", images[::-1]),
        key_of("f", [replace(images[0], id="other"), *images[1:]]),
    ]
    images[0].path.write_bytes(b"longer than it was")
    others.append(key_of("f", images))
    os.utime(images[0].path, ns=(0, 0))
    others.append(key_of("f", images))
    assert len({key, *others}) == 7


def test_a_file_that_is_replaced_by_one_of_the_same_size_and_time_has_another_key(images: list[ListedImage]) -> None:
    path = images[0].path
    before = path.stat()
    key = key_of("f", images)
    path.write_bytes(b"y" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert key_of("f", images) != key


def test_an_image_that_went_away_is_an_error(images: list[ListedImage]) -> None:
    images[1].path.unlink()
    with pytest.raises(PathMissing):
        key_of("f", images)


def test_the_default_directory_is_that_of_the_xdg_specification(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_directory() == Path("/somewhere/dinodex/features")
    monkeypatch.setenv("HOME", "/home/someone")
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert default_directory() == Path("/home/someone/.cache/dinodex/features")

    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", homeless)
    assert default_directory() is None
    assert "--cache" in caplog.text or "name a directory" in caplog.text
