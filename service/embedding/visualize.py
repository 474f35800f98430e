"""Visualisations of a network: where its CLS token looks in an image, and which patches look alike to it."""

from __future__ import annotations

import io
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.errors import Invalid

_RAMP: Final = np.array(
    [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]]
)  # dark to bright, in any print
_OPACITY: Final = 0.7  # of the heat over the image in grey: both stay readable
_OUTLIERS_PERCENT: Final = 1.0  # of the patches at either end of a component, which would else set the colours of all
_SMALLEST: Final = 1e-6  # spread of a component below which it is rounding: all patches look alike


def attention_picture(square: NDArray[np.uint8], attention: NDArray[np.float32], head: int | None = None) -> bytes:
    """Return a PNG of the image in grey under the heat of what CLS attends to in the last block (Caron et al. 2021, figure 1).

    Args:
        square: [S, S, 3], the image as the network is shown it.
        attention: [H, N], each head's share on each patch.
        head: the one that is shown; None shows the mean of all.

    Raises:
        Invalid: there is no such head.
    """
    if head is not None and head >= len(attention):
        raise Invalid(f"the network has {len(attention)} heads, counted from 0, and no head {head}.")
    heat = attention.mean(axis=0) if head is None else attention[head]
    heat = _enlarged(_grid(heat[:, None] / max(float(heat.max()), _SMALLEST)), len(square))[..., 0]
    at = heat * (len(_RAMP) - 1)
    colours = np.stack([np.interp(at, range(len(_RAMP)), channel) for channel in _RAMP.T], axis=-1)
    grey = np.asarray(Image.fromarray(square).convert("L"), dtype=np.float32)[..., None]
    return _png(_OPACITY * colours + (1 - _OPACITY) * grey)


def pca_picture(patch_tokens: NDArray[np.float32], side: int) -> bytes:
    """Return a PNG of the first three principal components of the patch tokens [N, D] as red, green and blue.

    Like patches have like colours. The picture has `side` x `side` pixels. The components are those of this image alone (Oquab et al.
    2023, figure 1, takes those of several).
    """
    centred = patch_tokens - patch_tokens.mean(axis=0)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    # an axis has no direction of its own: the largest weight is made positive, so that the same image has the same colours
    signs = np.sign(vt[np.arange(len(vt)), np.abs(vt).argmax(axis=1)])
    components = np.zeros((len(patch_tokens), 3), np.float32)
    shown = min(3, len(s))
    components[:, :shown] = (u * s * signs)[:, :shown]
    low, high = np.percentile(components, [_OUTLIERS_PERCENT, 100 - _OUTLIERS_PERCENT], axis=0)
    spread = high - low
    scaled = np.where(spread > _SMALLEST, (components - low) / np.maximum(spread, _SMALLEST), 0.5)
    return _png(_enlarged(_grid(scaled.astype(np.float32)), side) * 255)


def _grid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, C] -> [sqrt N, sqrt N, C]: the network is shown squares."""
    side = math.isqrt(len(values))
    return values.reshape(side, side, -1)


def _enlarged(grid: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """[g, g, C] in [0, 1] -> [side, side, C] in [0, 1], smoothly."""
    planes = [
        Image.fromarray(plane).resize((side, side), Image.Resampling.BICUBIC) for plane in np.moveaxis(grid, -1, 0)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1).clip(0, 1)


def _png(pixels: NDArray[np.floating]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
