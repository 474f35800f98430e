"""Architectures as data: a name and every parameter that rebuilds the network; no torch until one is built."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any, Self

from backbone.errors import ArchitectureInvalid

# name: (width, depth, heads), as in DeiT (arXiv:2012.12877) and DINOv2 (arXiv:2304.07193)
VIT_SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "giant": (1536, 40, 24),
}
RESNETS = {18: 512, 34: 512, 50: 2048, 101: 2048, 152: 2048}  # depth: width of the last feature map
# name: (blocks, width) of the four stages (arXiv:2201.03545)
CONVNEXT_SIZES = {
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
}
CONVNEXT_STRIDE = 32  # pixels between the cells of the last feature map, and the smallest side that has one
POS_EMBED_RESIZES = ("exact_antialias", "exact", "hub_offset")
FFNS = ("mlp", "swiglu")

# Parameters that are younger than the first artifacts. Where they say what those networks were anyway, they are not written, so that
# one network has one form, and a fingerprint from before them stays what it was.
_SINCE = {"vit": {"registers": 0, "ffn": "mlp"}}


@dataclass(frozen=True)
class Architecture:
    """A family (`vit`, `resnet` or `convnext`) and its parameters, as plain JSON types."""

    name: str
    params: dict[str, Any]

    def __post_init__(self) -> None:
        since = _SINCE.get(self.name, {})
        kept = {key: value for key, value in self.params.items() if key not in since or value != since[key]}
        object.__setattr__(self, "params", kept)

    @property
    def dim(self) -> int:
        """D, the width of a token."""
        if self.name == "convnext":
            return self.params["dims"][-1]
        return RESNETS[self.params["depth"]] if self.name == "resnet" else self.params["dim"]

    @property
    def smallest_image(self) -> int:
        """Pixels a side of the smallest square image that the network takes."""
        if self.name == "convnext":
            return CONVNEXT_STRIDE
        return 1 if self.name == "resnet" else self.params["patch_size"]  # a ResNet pads each of its convolutions

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"name": self.name, "params": dict(self.params)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote; `build` checks the values."""
        return cls(name=data["name"], params=dict(data["params"]))

    def __str__(self) -> str:
        """Return the name that `named` takes, or one in its manner where the sizes are none of the published ones."""
        p = self.params
        if self.name == "resnet":
            return f"resnet{p['depth']}"
        if self.name == "convnext":
            stages = (tuple(p["depths"]), tuple(p["dims"]))
            known = {value: key for key, value in CONVNEXT_SIZES.items()}
            return f"convnext_{known.get(stages) or 'x'.join(map(str, stages[1]))}"
        sizes = {value: key for key, value in VIT_SIZES.items()}
        size = sizes.get((p["dim"], p["depth"], p["heads"])) or f"{p['dim']}x{p['depth']}"
        registers = f"_reg{p['registers']}" if p.get("registers") else ""
        swiglu = "_swiglu" if p.get("ffn") == "swiglu" and size != "giant" else ""
        return f"vit_{size}_patch{p['patch_size']}{registers}{swiglu}"


def named(name: str, image_size: int = 224) -> Architecture:
    """Return the architecture that `name` stands for.

    Args:
        name: `vit_{tiny,small,base,large,giant}_patchP`, with any patch size P in pixels, and after it `_regR` for R registers and
            `_swiglu` for gated blocks, which a giant always has; `resnet{18,34,50,101,152}`; `convnext_{tiny,small,base,large}`.
        image_size: side in pixels of the images that a ViT's position table is made for.

    Raises:
        ArchitectureInvalid: no such name, an image size that is not a multiple of the patch size, or images too small for the network.
    """
    family, _, size = name.partition("_")
    if name in _resnet_names():
        return Architecture("resnet", {"depth": int(name.removeprefix("resnet"))})
    if family == "convnext" and size in CONVNEXT_SIZES:
        depths, dims = CONVNEXT_SIZES[size]
        return _large_enough(Architecture("convnext", {"depths": list(depths), "dims": list(dims)}), image_size)
    match = re.fullmatch(
        rf"vit_({'|'.join(VIT_SIZES)})_patch([1-9]\d{{0,2}})(?:_reg([1-9]\d?))?(_swiglu)?", name, re.ASCII
    )
    if match is None:
        raise ArchitectureInvalid(_unknown(name))
    return _vit(match[1], int(match[2]), image_size, int(match[3] or 0), swiglu=bool(match[4]) or match[1] == "giant")


def _vit(size: str, patch_size: int, image_size: int, registers: int, *, swiglu: bool) -> Architecture:
    if image_size % patch_size:
        near = max(patch_size, round(image_size / patch_size) * patch_size)
        raise ArchitectureInvalid(
            f"an image of {image_size} pixels is not a whole number of patches of {patch_size}; take image_size={near}."
        )
    dim, depth, heads = VIT_SIZES[size]
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
            "registers": registers,
            "ffn": "swiglu" if swiglu else "mlp",
        },
    )


def _large_enough(architecture: Architecture, image_size: int) -> Architecture:
    if image_size < architecture.smallest_image:
        raise ArchitectureInvalid(
            f"an image of {image_size} pixels is too small for {architecture}; take image_size={architecture.smallest_image} or more."
        )
    return architecture


def _resnet_names() -> list[str]:
    return [f"resnet{depth}" for depth in RESNETS]


def _unknown(name: str) -> str:
    """The answer to a name that does not exist: the nearest one, and all there are."""
    convnexts = [f"convnext_{size}" for size in CONVNEXT_SIZES]
    number = re.search(r"[1-9]\d{0,2}", name)
    vits = [f"vit_{size}_patch{number[0] if number else 16}" for size in VIT_SIZES]
    tails = ("", "_reg4", "_swiglu", "_reg4_swiglu")
    candidates = [*_resnet_names(), *convnexts, *(vit + tail for vit in vits for tail in tails)]
    near = difflib.get_close_matches(name.lower(), candidates, n=1, cutoff=0.65)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return (
        f"there is no backbone {name!r}{hint}; the names are vit_{{{','.join(VIT_SIZES)}}}_patchP[_regR][_swiglu] with a patch of P "
        f"pixels and R registers, {', '.join(_resnet_names())}, {', '.join(convnexts)}."
    )
