"""The interface of a runtime, which computes the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Precision = Literal["fp32", "bf16", "fp16"]
Floats = NDArray[np.float32]
Tokens = tuple[Floats, Floats | None]  # the global token and the patch tokens, or None where they are not asked for
ForwardPass = Callable[[Floats, bool], Tokens]  # (pixels [B, 3, H, W], patches) -> ([B, D], [B, N, D])


class Runtime(Protocol):
    """One compiled network. `run` is called by up to `streams` threads at a time, and `attention` by another."""

    @property
    def name(self) -> str:
        """Return the family's name."""

    @property
    def precision(self) -> Precision:
        """Return the arithmetic of its matrix products."""

    @property
    def streams(self) -> int:
        """Return how many calls of `run` compute faster side by side than one after the other."""

    def run(self, pixels: Floats, patches: bool = True, /) -> Tokens:
        """Compute pixels [B, 3, H, W] -> (global_token [B, D], patch_tokens [B, N, D], or None where they are not asked for)."""

    def attention(self, pixels: Floats, /) -> Floats:
        """Compute pixels [B, 3, H, W] -> what CLS attends to in the last block [B, heads, N]. Raises NoAttention."""


class Family(Protocol):
    """Runtimes of one kind for one artifact."""

    @property
    def precisions(self) -> Sequence[Precision]:
        """Return what this machine computes in."""

    def build(self, precision: Precision, /) -> Runtime:
        """Compile the network."""
