"""Small sets of real images, and the smallest networks that learn from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from backbone.architecture import Architecture
from backbone.factory import build
from backbone.model import Backbone
from training.config import TrainingConfig, section
from training.method import MethodConfig, SelfDistillation
from training.recipes import resolve

TINY_VIT = Architecture(
    "vit",
    {
        "image_size": 16,
        "patch_size": 4,
        "dim": 32,
        "depth": 2,
        "heads": 2,
        "mlp_ratio": 2.0,
        "pos_embed_resize": "exact_antialias",
    },
)
# Keys that make the command line's names as small as they go.
TINY_KEYS = {
    "backbone": "vit_tiny_patch4",
    "depth": 1,
    "image_size": 8,
    "local_size": 4,
    "local_views": 2,
    "batch_size": 16,
    "prototypes": 64,
    "head_hidden": 32,
    "head_bottleneck": 16,
    "knn_images": 80,
    "workers": 0,
    "devices": "1",
    "precision": "32",
    "log_every": 2,
    "onnx": False,
}


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 handwritten digits of 8 x 8 pixels in ten class folders."""
    root = tmp_path_factory.mktemp("digits")
    data = load_digits()
    for number, (picture, label) in enumerate(zip(data.images[:300], data.target[:300], strict=True)):
        folder = root / str(label)
        folder.mkdir(exist_ok=True)
        Image.fromarray((picture * 255 / 16).astype(np.uint8)).save(folder / f"{number:04d}.png")
    return root


@pytest.fixture
def tiny_vit() -> Backbone:
    torch.manual_seed(0)
    return build(TINY_VIT)


@pytest.fixture
def tiny_config() -> Callable[..., TrainingConfig]:
    """The smallest keys, with changes: `tiny_config(recipe="dinov2")`."""
    return lambda **keys: TrainingConfig.from_values({**TINY_KEYS, **keys})


@pytest.fixture
def make_method() -> Callable[..., SelfDistillation]:
    """Student and teacher of the tiny ViT (or another architecture) with small heads."""

    def make(recipe: str = "dinov2", architecture: Architecture = TINY_VIT, **keys: object) -> SelfDistillation:
        sizes = {"prototypes": 24, "head_hidden": 16, "head_bottleneck": 8, "image_size": 16}
        config = TrainingConfig.from_values({"recipe": recipe, **sizes, **keys})
        torch.manual_seed(0)
        return SelfDistillation(build(architecture), section(resolve(config, 1000, architecture).config, MethodConfig))

    return make
