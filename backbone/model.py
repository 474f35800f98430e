"""What every backbone is to the rest of the project: tokens and an embedding."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone.architecture import Architecture
from backbone.pooling import POOLINGS


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

    def embed(self, x: Tensor) -> Tensor:
        """Return [B, D] (or [B, 2D] for `cls+mean`) vectors of length one, pooled as `self.pooling` says."""
        tokens = self.tokens(x)
        if self.pooling == "cls":
            pooled = tokens.global_token
        elif self.pooling == "mean":
            pooled = tokens.patch_tokens.mean(dim=1)
        elif self.pooling == "cls+mean":
            pooled = torch.cat([tokens.global_token, tokens.patch_tokens.mean(dim=1)], dim=1)
        else:
            raise ValueError(f"pooling is one of {', '.join(POOLINGS)}, not {self.pooling!r}")
        return F.normalize(pooled.float(), dim=1)

    def forward(self, x: Tensor, masks: Tensor | None = None) -> Tokens:
        """Call `tokens`, so that hooks and wrappers (DDP, compile) work."""
        return self.tokens(x, masks)
