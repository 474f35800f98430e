"""The projection head: from a token to scores over prototypes (arXiv:2104.14294, appendix C)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from training.precision import at_least_float32, full_precision


class ProjectionHead(nn.Module):
    """A three-layer MLP to a narrow bottleneck, normalised to length one, then a linear layer whose rows are the prototypes.

    The rows have length g, which starts at 1: each score is then a cosine. With `trainable_norm` off g stays 1 (DINO's
    default, steadier on small sets); DINOv2 trains it.
    """

    def __init__(
        self, dim: int, prototypes: int, hidden: int = 2048, bottleneck: int = 256, *, trainable_norm: bool = False
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        last = nn.Linear(bottleneck, prototypes, bias=False)
        nn.init.trunc_normal_(last.weight, std=0.02)
        self.last_layer = weight_norm(last)
        length = self.last_layer.parametrizations.weight.original0
        nn.init.ones_(length)
        length.requires_grad_(trainable_norm)

    def forward(self, x: Tensor) -> Tensor:
        """[M, D] -> [M, K] scores."""
        z = self.mlp(x)
        with full_precision(z):
            scores: Tensor = self.last_layer(F.normalize(at_least_float32(z), dim=-1))
            return scores
