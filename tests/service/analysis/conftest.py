"""Handwritten digits, for the tests of votes on points that are already there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from service.library.library import Collection, Library
from service.points import NewPoint, hash_vector

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@pytest.fixture(scope="session")
def all_digits() -> tuple[Floats, Labels]:
    """Unit vectors [1797, 64] and their labels."""
    data = load_digits()
    x = data.data.astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True), data.target.astype(np.int64)


@pytest.fixture(scope="session")
def some_digits(all_digits: tuple[Floats, Labels]) -> tuple[Floats, Labels]:
    """Fewer sevens and eights than the others, so that a balanced vote differs."""
    x, labels = all_digits
    kept = np.flatnonzero((labels < 7) | (np.arange(len(labels)) % 5 == 0))[:900]
    return x[kept], labels[kept]


@pytest.fixture
def collection(tmp_path: Path, some_digits: tuple[Floats, Labels]) -> Iterator[Collection]:
    x, labels = some_digits
    with Library.open(tmp_path / "data", threads=1) as library:
        collection = library.create("digits", "f", x.shape[1])[0]
        points = zip(x[:300], labels[:300].tolist(), strict=True)
        collection.put([NewPoint(f"{i:03}", hash_vector(v), v, str(label)) for i, (v, label) in enumerate(points)])
        yield collection
