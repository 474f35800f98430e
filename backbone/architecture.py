"""Architectures as data: a name and every parameter that rebuilds the network; no torch until one is built."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from backbone.errors import ArchitectureInvalid, NotInstalled

if TYPE_CHECKING:
    from backbone.model import Backbone

# name: (width, depth, heads), as in DeiT (arXiv:2012.12877) and DINOv2 (arXiv:2304.07193)
VIT_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
RESNETS = ("resnet18", "resnet50")
POS_EMBED_RESIZES = ("exact_antialias", "exact", "hub_offset")


@dataclass(frozen=True)
class Architecture:
    """A family (`vit` or `resnet`) and its parameters, as plain JSON types."""

    name: str
    params: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"name": self.name, "params": dict(self.params)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote; `build` checks the values."""
        return cls(name=data["name"], params=dict(data["params"]))

    def __str__(self) -> str:
        if self.name == "resnet":
            return f"resnet{self.params['depth']}"
        p = self.params
        return f"vit_{p['dim']}x{p['depth']}_patch{p['patch_size']}"


def named(name: str, image_size: int = 224) -> Architecture:
    """Return the architecture that `name` stands for.

    Args:
        name: `vit_{tiny,small,base,large}_patchP` with any patch size P in pixels, `resnet18` or `resnet50`.
        image_size: side in pixels of the images that a ViT's position table is made for.

    Raises:
        ArchitectureInvalid: no such name, or an image size that is not a multiple of the patch size.
    """
    if name in RESNETS:
        return Architecture("resnet", {"depth": int(name.removeprefix("resnet"))})
    match = re.fullmatch(r"vit_(tiny|small|base|large)_patch([1-9]\d{0,2})", name)
    if match is None:
        sizes = ",".join(VIT_SIZES)
        raise ArchitectureInvalid(
            f"there is no backbone {name!r}; the names are vit_{{{sizes}}}_patchP with a patch of P pixels, {', '.join(RESNETS)}."
        )
    dim, depth, heads = VIT_SIZES[match[1]]
    patch_size = int(match[2])
    if image_size % patch_size:
        near = max(patch_size, round(image_size / patch_size) * patch_size)
        raise ArchitectureInvalid(
            f"an image of {image_size} pixels is not a whole number of patches of {patch_size}; take image_size={near}."
        )
    return Architecture(
        "vit",
        {
            "image_size": image_size,
            "patch_size": patch_size,
            "dim": dim,
            "depth": depth,
            "heads": heads,
            "mlp_ratio": 4.0,
            # The antialiased resize to the exact grid is the sound one; the hub's weights were trained with the other.
            "pos_embed_resize": "exact_antialias",
        },
    )


def build(architecture: Architecture, drop_path: float = 0.0, layer_scale: float | None = None) -> Backbone:
    """Build the network with fresh random weights.

    Args:
        architecture: what to build.
        drop_path: share of a batch's samples that skip each residual branch in training (ViT).
        layer_scale: what LayerScale starts from (ViT); None is DINOv2's 1e-5, and 1.0 starts like DINO's ViT, which has none.

    Raises:
        ArchitectureInvalid: an unknown family, or parameters that do not fit it.
        NotInstalled: torch (or torchvision, for a ResNet) is not there.
    """
    try:
        if architecture.name == "vit":
            from backbone.vit import LAYER_SCALE_INIT, ViT, ViTConfig

            start = LAYER_SCALE_INIT if layer_scale is None else layer_scale
            return ViT(ViTConfig(**architecture.params), drop_path, start)
        if architecture.name == "resnet":
            from backbone.resnet import ResNet

            return ResNet(**architecture.params)
    except ModuleNotFoundError as error:
        raise NotInstalled(f"{error.name} is needed to build a network; run: pip install 'dinodex[torch]'.") from error
    except (TypeError, ValueError) as error:
        raise ArchitectureInvalid(f"the parameters of {architecture.name!r} do not fit: {error}.") from error
    raise ArchitectureInvalid(f"there is no architecture family {architecture.name!r}; there are 'vit' and 'resnet'.")
