"""The interface of every backbone: tokens and an embedding."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone.architecture import Architecture
from backbone.pooling import POOLINGS, reads_patches


class Tokens(NamedTuple):
    """A network's output after its final normalisation."""

    global_token: Tensor  # [B, D]
    patch_tokens: Tensor  # [B, N, D]


class Backbone(nn.Module):
    """A network from pixels [B, 3, H, W] to tokens; subclasses set the attributes and write `tokens`."""

    architecture: Architecture
    dim: int  # D, the width of a token
    stride: int  # pixels between neighbouring patch tokens
    supports_masks: bool
    pooling: str = "cls"  # what `embed` makes of the tokens

    def tokens(self, x: Tensor, masks: Tensor | None = None) -> Tokens:
        """Compute the tokens.

        Args:
            x: [B, 3, H, W] normalised pixels.
            masks: [B, N] booleans; true patches are replaced by the mask token (networks with `supports_masks`).
        """
        raise NotImplementedError

    def global_token(self, x: Tensor) -> Tensor:
        """Compute the global token alone, [B, D], where that is less work than all tokens."""
        return self.tokens(x).global_token

    def embed(self, x: Tensor) -> Tensor:
        """Return [B, D] (or [B, 2D] for `cls+mean`) vectors of length one, pooled as `self.pooling` says."""
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling is one of {', '.join(POOLINGS)}, not {self.pooling!r}")
        if not reads_patches(self.pooling):
            return F.normalize(self.global_token(x).float(), dim=1)
        tokens = self.tokens(x)
        pooled = tokens.patch_tokens.mean(dim=1)
        if self.pooling == "cls+mean":
            pooled = torch.cat([tokens.global_token, pooled], dim=1)
        return F.normalize(pooled.float(), dim=1)

    def forward(self, x: Tensor, masks: Tensor | None = None) -> Tokens:
        """Call `tokens`, so that hooks and wrappers (DDP, compile) work."""
        return self.tokens(x, masks)
