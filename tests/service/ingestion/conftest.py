"""A folder of two classes of pictures, for the tests of the batch job and of its sinks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

PER_CLASS = 3


@pytest.fixture
def folder(tmp_path: Path, png: Callable[..., bytes]) -> Path:
    root = tmp_path / "images"
    for first_seed, label in ((10, "cat"), (20, "dog")):
        (root / label).mkdir(parents=True)
        for index in range(PER_CLASS):
            (root / label / f"{index}.png").write_bytes(png(seed=first_seed + index))
    return root
