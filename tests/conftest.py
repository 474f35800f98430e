"""What several rooms of tests share: pictures made in code, a tiny artifact, and the versions in the report's header."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

# Two OpenMP runtimes live in one process (torch's and FAISS's); tests run small work, for which one thread each is fastest.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from pictures import encoded, picture
from PIL import Image

if TYPE_CHECKING:
    from backbone import Artifact


def pytest_report_header() -> str:
    import faiss
    import PIL
    import torch

    return f"torch {torch.__version__}, faiss {faiss.__version__}, numpy {np.__version__}, pillow {PIL.__version__}"


def pytest_collection_finish() -> None:
    """Take what was imported and collected out of the collector's sight.

    A look through it takes half a second, in which a service in this process answers nobody, and tests hold that to milliseconds.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Give it back at the end, or extension modules complain that it was left over."""
    gc.unfreeze()


@pytest.fixture
def png() -> Callable[..., bytes]:
    """Make the bytes of a PNG: `png(seed=3)`."""

    def make(width: int = 48, height: int = 40, seed: int = 0) -> bytes:
        return encoded(picture(width, height, seed))

    return make


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 300 of scikit-learn's handwritten digits as PNG files in class folders, and return the folder."""
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("digits")
    data = load_digits()
    for index in range(300):
        folder = root / f"digit-{data.target[index]}"
        folder.mkdir(exist_ok=True)
        pixels = (data.images[index] * (255 / 16)).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:04d}.png")
    return root


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Write a ViT of two narrow blocks, with random weights and with ONNX."""
    return make_artifact(tmp_path_factory.mktemp("artifact") / "tiny", seed=0, onnx=True)


@pytest.fixture(scope="session")
def other_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Write the same architecture with other weights: the same dimension, another fingerprint."""
    return make_artifact(tmp_path_factory.mktemp("artifact") / "other", seed=1, onnx=False)


@pytest.fixture(scope="session")
def wide_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Write a network of one block that gives as many numbers as a ViT-S: 256 patches of 384."""
    return make_artifact(
        tmp_path_factory.mktemp("artifact") / "wide", seed=0, onnx=False, patch_size=2, dim=384, depth=1
    )


@pytest.fixture(scope="session")
def pooled_artifact(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Artifact]:
    """Write the tiny artifact, with ONNX, with the pooling that is asked for."""

    @cache
    def write(pooling: str) -> Artifact:
        return make_artifact(tmp_path_factory.mktemp("pooled") / "artifact", seed=0, onnx=True, pooling=pooling)

    return write


def make_artifact(path: Path, seed: int, onnx: bool, pooling: str = "cls", **other: object) -> Artifact:
    """Write a tiny artifact with random weights; `other` parameters of the network make it less so."""
    import torch

    from backbone import Architecture, Preprocess, build
    from backbone.artifact_writer import write_artifact

    params = {"image_size": 32, "patch_size": 8, "dim": 32, "depth": 2, "heads": 2, "pos_embed_resize": "exact"}
    params |= other
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(Architecture("vit", params))
        for parameter in model.parameters():  # LayerScale starts near zero: without this all images look alike
            torch.nn.init.normal_(parameter, std=0.3)
    model.pooling = pooling
    return write_artifact(
        path,
        model,
        Preprocess.for_image_size(32),
        licence="Apache-2.0",
        lineage="random weights, for tests",
        training={},
        onnx=onnx,
    )
