"""Pooling of a network's tokens to one unit vector, in numpy, for every runtime that is not torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

POOLINGS = ("cls", "mean", "cls+mean")


def reads_patches(pooling: str) -> bool:
    """Say whether a pooling needs the patch tokens; where it does not, a network has less to compute."""
    return pooling != "cls"


def pool(
    global_token: NDArray[np.float32], patch_tokens: NDArray[np.float32] | None, pooling: str
) -> NDArray[np.float32]:
    """Pool and normalise.

    Args:
        global_token: [B, D].
        patch_tokens: [B, N, D]; None will do where the pooling does not read them.
        pooling: `cls` (the global token), `mean` (of the patch tokens) or `cls+mean` (both, side by side).

    Returns:
        [B, D] or, for `cls+mean`, [B, 2D], with rows of length one. A row that cannot be normalised (zero, not finite) is not
        finite in the answer; the caller refuses it.
    """
    if pooling == "cls":
        vector = global_token
    elif pooling not in POOLINGS:
        raise ValueError(f"pooling is one of {', '.join(POOLINGS)}, not {pooling!r}")
    elif patch_tokens is None:
        raise ValueError(f"the pooling {pooling} needs the patch tokens")
    elif pooling == "mean":
        vector = patch_tokens.mean(axis=1)
    else:
        vector = np.concatenate([global_token, patch_tokens.mean(axis=1)], axis=1)
    vector = vector.astype(np.float32, copy=False)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return vector / np.linalg.norm(vector, axis=1, keepdims=True)
