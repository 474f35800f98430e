"""Embed image files with a network in torch: what training's online score and every evaluation use, so that their vectors are one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from backbone.decode import DecodeLimits
from backbone.durable import read_file
from backbone.errors import ImageRefused, PathMissing, StorageFailed
from backbone.model import Backbone
from backbone.preprocess import Preprocess

BATCH = 64  # images at once: enough to fill a CPU or a GPU, small in memory


def embed_files(
    network: Backbone, preprocess: Preprocess, paths: Sequence[Path], limits: DecodeLimits | None = None
) -> tuple[NDArray[np.float32], list[int]]:
    """Embed files in evaluation mode and full precision, on the device where the network is.

    Args:
        network: the backbone; its mode is put back.
        preprocess: how images become its input.
        paths: image files.
        limits: what an image may cost.

    Returns:
        vectors [n, dim] of length one, and for each row the position in `paths`; files that cannot be read or decoded have none.
    """
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    vectors: list[NDArray[np.float32]] = []
    positions: list[int] = []
    try:
        for start in range(0, len(paths), BATCH):
            prepared = _prepare(preprocess, paths[start : start + BATCH], limits)
            if prepared:
                pixels = torch.from_numpy(np.stack([pixels for _, pixels in prepared])).to(device)
                with torch.no_grad(), torch.autocast(device.type, enabled=False):
                    vectors.append(network.embed(pixels).cpu().numpy())
                positions += [start + offset for offset, _ in prepared]
    finally:
        network.train(was_training)
    return (np.concatenate(vectors) if vectors else np.empty((0, network.dim), dtype=np.float32)), positions


def _prepare(
    preprocess: Preprocess, paths: Sequence[Path], limits: DecodeLimits | None
) -> list[tuple[int, NDArray[np.float32]]]:
    prepared = []
    for offset, path in enumerate(paths):
        try:
            prepared.append((offset, preprocess(read_file(path), limits)))
        except (ImageRefused, PathMissing, StorageFailed):
            continue  # who calls knows which positions have no row
    return prepared
