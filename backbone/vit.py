"""The vision transformer of DINO and DINOv2; parameters carry the names of the DINOv2 hub, so its weights load as they are.

Dosovitskiy et al. 2021 (arXiv:2010.11929); LayerScale: Touvron et al. 2021 (arXiv:2103.17239); mask token and batch-subset stochastic
depth: Oquab et al. 2024 (arXiv:2304.07193); registers: Darcet et al. 2024 (arXiv:2309.16588); SwiGLU: Shazeer 2020 (arXiv:2002.05202).

Legend: B batch, N patch tokens, R registers, T = 1 + R + N tokens (CLS, registers, patches), D width, H heads, P patch size in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone.architecture import FFNS, POS_EMBED_RESIZES, Architecture
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
    registers: int = 0  # tokens that belong to no patch, where the network may keep notes of its own; DINOv2's have 4
    ffn: str = "mlp"  # or swiglu, as DINOv2's giant

    def __post_init__(self) -> None:
        if min(self.image_size, self.patch_size, self.dim, self.depth, self.heads) < 1:
            raise ValueError("sizes are at least 1")
        if self.registers < 0:
            raise ValueError(f"registers is {self.registers}, and there cannot be fewer than none")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.pos_embed_resize not in POS_EMBED_RESIZES:
            raise ValueError(
                f"pos_embed_resize is one of {', '.join(POS_EMBED_RESIZES)}, not {self.pos_embed_resize!r}"
            )
        if self.ffn not in FFNS:
            raise ValueError(f"ffn is one of {', '.join(FFNS)}, not {self.ffn!r}")

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
        self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, config.dim)) if config.registers else None
        self.blocks = nn.ModuleList(Block(config, drop_path, layer_scale) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=1e-6)

    def tokens(self, x: Tensor, masks: Tensor | None = None) -> Tokens:
        """See `Backbone.tokens`; H and W are multiples of P, and need not be those of the position table."""
        z = self._embed(x, masks)
        for block in self.blocks:
            z = block(z)
        return self._read(z)

    def global_token(self, x: Tensor) -> Tensor:
        """Compute CLS alone, [B, D]: the last block computes no other token, which saves a twelfth of a network of twelve."""
        if self.training:  # where blocks are skipped at random
            return self.tokens(x).global_token
        z, last = self._up_to_the_last(x)
        return self._first(z, last)

    def attention(self, x: Tensor) -> Tensor:
        """Return what the CLS token of the last block attends to: [B, H, N]. The shares on CLS itself and on registers are left out."""
        z, last = self._up_to_the_last(x)
        return self._attended(z, last)

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the global token [B, D], the patch tokens [B, N, D] and the attention [B, H, N] of a network in evaluation.

        Each comes from no more than it needs, so that who compiles one of them computes nothing of the others.
        """
        z, last = self._up_to_the_last(x)
        return self._first(z, last), self._read(last(z)).patch_tokens, self._attended(z, last)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Return the position table, resized to a grid of rows x columns: [1, 1 + N, D], of CLS and of the patches.

        Computed in float32 or better, whatever surrounds it. A resize is a linear map of each axis, so it is done by two matrices: the
        gradient of a matrix product is the same in every run, that of an interpolation on a GPU is not.
        """
        grid, mode = self.config.grid, self.config.pos_embed_resize
        if (rows, columns) == (grid, grid):
            return self.pos_embed
        with torch.autocast(self.pos_embed.device.type, enabled=False):
            table = self.pos_embed[:, 1:].to(torch.promote_types(self.pos_embed.dtype, torch.float32))
            down = resize_matrix(rows, grid, mode, like=table)
            across = down if columns == rows else resize_matrix(columns, grid, mode, like=table)
            table = (down @ table.reshape(grid, grid * self.dim)).reshape(rows, grid, self.dim)
            table = (across @ table).reshape(1, rows * columns, self.dim)  # [columns, grid] @ [rows, grid, D]
        return torch.cat([self.pos_embed[:, :1], table.to(self.pos_embed.dtype)], dim=1)

    @property
    def _first_patch(self) -> int:
        return 1 + self.config.registers

    def _up_to_the_last(self, x: Tensor) -> tuple[Tensor, Block]:
        """Return what enters the last block, [B, T, D], and the block."""
        z = self._embed(x, None)
        for block in self.blocks[:-1]:
            z = block(z)
        last = self.blocks[-1]
        assert isinstance(last, Block)
        return z, last

    def _first(self, z: Tensor, last: Block) -> Tensor:
        return self.norm(last.first(z))[:, 0]

    def _attended(self, z: Tensor, last: Block) -> Tensor:
        return last.attn.cls_attention(last.norm1(z))[:, :, self._first_patch :]

    def _embed(self, x: Tensor, masks: Tensor | None) -> Tensor:
        """Patches and CLS plus their positions, and registers, which have none, between: [B, T, D]."""
        rows, columns = x.shape[-2] // self.stride, x.shape[-1] // self.stride
        z = self.patch_embed(x)  # [B, N, D]
        if masks is not None:
            z = torch.where(masks.unsqueeze(-1), self.mask_token.to(z.dtype).unsqueeze(0), z)
        z = torch.cat([self.cls_token.expand(z.shape[0], -1, -1), z], dim=1)
        z = z + self.positions(rows, columns)
        if self.register_tokens is not None:
            z = torch.cat([z[:, :1], self.register_tokens.expand(z.shape[0], -1, -1).to(z.dtype), z[:, 1:]], dim=1)
        return z

    def _read(self, z: Tensor) -> Tokens:
        """Normalise what the last block gives, [B, T, D], and leave the registers behind."""
        z = self.norm(z)
        return Tokens(global_token=z[:, 0], patch_tokens=z[:, self._first_patch :])


def resize_matrix(size: int, grid: int, mode: str, like: Tensor) -> Tensor:
    """Return the matrix that resizes a line of `grid` positions to `size`: [size, grid], of the dtype and on the device of `like`.

    Its columns are what torch's bicubic interpolation makes of the unit vectors. They lie side by side in one plane, whose width stays:
    on planes one pixel wide the antialiased interpolation of a CPU gives wrong values.
    """
    lines = torch.eye(grid, dtype=like.dtype, device=like.device)[None, None]
    if mode == "hub_offset":
        resized = F.interpolate(lines, scale_factor=((size + HUB_OFFSET) / grid, 1.0), mode="bicubic")
    else:
        resized = F.interpolate(lines, size=(size, grid), mode="bicubic", antialias=mode == "exact_antialias")
    return resized[0, 0]


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
    """Pre-norm attention and feed-forward, each scaled by a learned vector and, in training, skipped by a share of the batch."""

    def __init__(self, config: ViTConfig, drop_path: float, layer_scale: float) -> None:
        super().__init__()
        dim, hidden = config.dim, int(config.dim * config.mlp_ratio)
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, config.heads)
        self.ls1 = LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = SwiGLU(dim, swiglu_width(hidden)) if config.ffn == "swiglu" else Mlp(dim, hidden)
        self.ls2 = LayerScale(dim, layer_scale)

    def forward(self, z: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        drop = self.drop_path if self.training else 0.0
        z = add_residual(z, lambda part: self.ls1(self.attn(self.norm1(part))), drop)
        return add_residual(z, lambda part: self.ls2(self.mlp(self.norm2(part))), drop)

    def first(self, z: Tensor) -> Tensor:
        """Return what becomes of token 0 in evaluation, without computing the others: [B, T, D] -> [B, 1, D]."""
        first = z[:, :1] + self.ls1(self.attn(self.norm1(z), queries=1))
        return first + self.ls2(self.mlp(self.norm2(first)))


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

    def forward(self, z: Tensor, queries: int | None = None) -> Tensor:
        """[B, T, D] -> [B, Q, D]: for the first Q tokens, or for all."""
        q, k, v = self._split(z)
        out = F.scaled_dot_product_attention(q[:, :, :queries], k, v)  # [B, H, Q, D/H]
        return self.proj(out.transpose(1, 2).flatten(2))

    def cls_attention(self, z: Tensor) -> Tensor:
        """Return what token 0 attends to: [B, H, T], rows that sum to one."""
        q, k, _ = self._split(z)
        scores = q[:, :, :1] @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # [B, H, 1, T]
        return scores.softmax(dim=-1)[:, :, 0]

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


class SwiGLU(nn.Module):
    """A gated feed-forward network: SiLU of one projection times another, and back to the width."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden)  # the gate is the first half
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, z: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        gate, value = self.w12(z).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


def swiglu_width(hidden: int) -> int:
    """Return the width of a SwiGLU that has as many weights as an MLP of `hidden`: two thirds of it, in whole eights as the hub's."""
    return (int(hidden * 2 / 3) + 7) // 8 * 8


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
