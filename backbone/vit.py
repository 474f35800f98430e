"""The vision transformer of DINO and DINOv2; parameters carry the names of the DINOv2 hub, so its weights load as they are.

Dosovitskiy et al. 2021 (arXiv:2010.11929); LayerScale: Touvron et al. 2021 (arXiv:2103.17239); mask token and batch-subset stochastic
depth: Oquab et al. 2024 (arXiv:2304.07193).

Legend: B batch, N patch tokens, T = N + 1 tokens, D width, H heads, P patch size in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone.architecture import POS_EMBED_RESIZES, Architecture
from backbone.model import Backbone, Tokens

LAYER_SCALE_INIT = 1e-5  # DINOv2's, for long training from scratch; loaded weights overwrite it
HUB_OFFSET = 0.1  # the hub scales the grid by (n + 0.1) / M, so that rounding never loses a row


@dataclass(frozen=True)
class ViTConfig:
    """Every parameter that rebuilds the network."""

    image_size: int  # pixels of the images that the position table is made for
    patch_size: int
    dim: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0  # the hidden width of the MLP over D, in every published ViT
    pos_embed_resize: str = "exact_antialias"

    def __post_init__(self) -> None:
        if min(self.image_size, self.patch_size, self.dim, self.depth, self.heads) < 1:
            raise ValueError("sizes are at least 1")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.pos_embed_resize not in POS_EMBED_RESIZES:
            raise ValueError(
                f"pos_embed_resize is one of {', '.join(POS_EMBED_RESIZES)}, not {self.pos_embed_resize!r}"
            )

    @property
    def grid(self) -> int:
        """Patches along one side of the position table."""
        return self.image_size // self.patch_size


class ViT(Backbone):
    """Patches and a CLS token through pre-norm transformer blocks; the global token is CLS."""

    def __init__(self, config: ViTConfig, drop_path: float = 0.0, layer_scale: float = LAYER_SCALE_INIT) -> None:
        super().__init__()
        self.config = config
        self.architecture = Architecture("vit", asdict(config))
        self.dim, self.stride, self.supports_masks = config.dim, config.patch_size, True
        self.patch_embed = PatchEmbed(config.patch_size, config.dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid**2, config.dim))
        self.mask_token = nn.Parameter(torch.zeros(1, config.dim))
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, config.mlp_ratio, drop_path, layer_scale) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)

    def tokens(self, x: Tensor, masks: Tensor | None = None) -> Tokens:
        """See `Backbone.tokens`; H and W are multiples of P, and need not be those of the position table."""
        z = self.norm(self._blocks(self._embed(x, masks)))
        return Tokens(global_token=z[:, 0], patch_tokens=z[:, 1:])

    def tokens_and_attention(self, x: Tensor) -> tuple[Tokens, Tensor]:
        """Also return what the CLS token of the last block attends to: [B, H, N] (the share on CLS itself left out)."""
        z = self._embed(x, None)
        for block in self.blocks[:-1]:
            z = block(z)
        last = self.blocks[-1]
        assert isinstance(last, Block)
        attention = last.attn.cls_attention(last.norm1(z))
        z = self.norm(last(z))
        return Tokens(global_token=z[:, 0], patch_tokens=z[:, 1:]), attention

    def positions(self, rows: int, columns: int) -> Tensor:
        """Return the position table, resized to a grid of rows x columns: [1, T, D]."""
        grid = self.config.grid
        if (rows, columns) == (grid, grid):
            return self.pos_embed
        table = self.pos_embed[:, 1:].float().reshape(1, grid, grid, self.dim).permute(0, 3, 1, 2)
        mode = self.config.pos_embed_resize
        if mode == "hub_offset":
            scale = ((rows + HUB_OFFSET) / grid, (columns + HUB_OFFSET) / grid)
            table = F.interpolate(table, scale_factor=scale, mode="bicubic")
        else:
            table = F.interpolate(table, size=(rows, columns), mode="bicubic", antialias=mode == "exact_antialias")
        table = table.permute(0, 2, 3, 1).reshape(1, rows * columns, self.dim)
        return torch.cat([self.pos_embed[:, :1], table.to(self.pos_embed.dtype)], dim=1)

    def _embed(self, x: Tensor, masks: Tensor | None) -> Tensor:
        """Patches plus positions, CLS in front: [B, T, D]."""
        rows, columns = x.shape[-2] // self.stride, x.shape[-1] // self.stride
        z = self.patch_embed(x)  # [B, N, D]
        if masks is not None:
            z = torch.where(masks.unsqueeze(-1), self.mask_token.to(z.dtype).unsqueeze(0), z)
        z = torch.cat([self.cls_token.expand(z.shape[0], -1, -1), z], dim=1)
        return z + self.positions(rows, columns)

    def _blocks(self, z: Tensor) -> Tensor:
        for block in self.blocks:
            z = block(z)
        return z


class PatchEmbed(nn.Module):
    """Cut the image into patches and project each: [B, 3, H, W] -> [B, N, D]."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Raise ValueError where the image is not a whole number of patches."""
        if x.shape[-2] % self.patch_size or x.shape[-1] % self.patch_size:
            raise ValueError(f"an image of {tuple(x.shape[-2:])} is not a whole number of patches of {self.patch_size}")
        return self.proj(x).flatten(2).transpose(1, 2)  # [B, D, h, w] -> [B, N, D]


class Block(nn.Module):
    """Pre-norm attention and MLP, each scaled by a learned vector and, in training, skipped by a share of the batch."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, drop_path: float, layer_scale: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.ls1 = LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = LayerScale(dim, layer_scale)

    def forward(self, z: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        drop = self.drop_path if self.training else 0.0
        z = add_residual(z, lambda part: self.ls1(self.attn(self.norm1(part))), drop)
        return add_residual(z, lambda part: self.ls2(self.mlp(self.norm2(part))), drop)


def add_residual(z: Tensor, branch: Callable[[Tensor], Tensor], drop: float) -> Tensor:
    """Add `branch(z)` on a random subset of the batch, scaled so that its expectation is that of the whole.

    The dropped samples are not computed at all (arXiv:2304.07193, section 5). [B, T, D] -> [B, T, D].
    """
    if drop == 0.0:
        return z + branch(z)
    batch = z.shape[0]
    kept = max(int(batch * (1 - drop)), 1)
    chosen = torch.randperm(batch, device=z.device)[:kept]
    update = branch(z[chosen])
    return z.index_add(0, chosen, update.to(z.dtype), alpha=batch / kept)


class Attention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, z: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        q, k, v = self._split(z)
        out = F.scaled_dot_product_attention(q, k, v)  # [B, H, T, D/H]
        return self.proj(out.transpose(1, 2).flatten(2))

    def cls_attention(self, z: Tensor) -> Tensor:
        """What token 0 attends to among the patches: [B, H, N], each row summing to one minus the share on token 0 itself."""
        q, k, _ = self._split(z)
        scores = q[:, :, :1] @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # [B, H, 1, T]
        return scores.softmax(dim=-1)[:, :, 0, 1:]

    def _split(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, tokens, dim = z.shape
        qkv = self.qkv(z).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        return qkv[0], qkv[1], qkv[2]  # each [B, H, T, D/H]


class LayerScale(nn.Module):
    """One learned factor a channel."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), start))

    def forward(self, z: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        return z * self.gamma


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, z: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        return self.fc2(F.gelu(self.fc1(z)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
