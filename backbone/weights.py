"""The reading of weights: strictly, name by name, and never by running what a file says."""

from __future__ import annotations

import math
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbone.architecture import Architecture
from backbone.errors import ArchitectureInvalid, PathMissing, WeightsInvalid
from backbone.factory import build

HEAD_WIDTH = 64  # D / H in every published DINOv2 model; the file does not say it
SWIGLU_RATIO = 4.0  # of the MLP that a published SwiGLU stands for
# Names that every hub file has, and how many axes each has: what the architecture is read from.
_HUB_MARKS = {
    "cls_token": 3,
    "pos_embed": 3,
    "mask_token": 2,
    "patch_embed.proj.weight": 4,
    "blocks.0.ls1.gamma": 1,
    "norm.weight": 1,
}


def load_strict(module: nn.Module, tensors: dict[str, Tensor]) -> str:
    """Copy `tensors` into `module`, all or nothing.

    Returns:
        An empty text, or what does not fit (missing, unexpected, shape, dtype); then nothing was copied.
    """
    problems = mismatch(module, tensors)
    if not problems:
        module.load_state_dict(tensors)
    return problems


def mismatch(module: nn.Module, tensors: dict[str, Tensor]) -> str:
    """Say in a few words what of `tensors` does not fit the state dict of `module`; nothing is copied."""
    wanted = module.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    problems += [f"{name} is unexpected" for name in tensors if name not in wanted]
    for name in wanted.keys() & tensors.keys():
        if wanted[name].shape != tensors[name].shape:
            problems.append(f"{name} is {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}")
        elif wanted[name].dtype != tensors[name].dtype:
            problems.append(f"{name} is {tensors[name].dtype} instead of {wanted[name].dtype}")
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    return ", ".join(sorted(problems)[:3]) + more


def read_torch_file(path: Path) -> Any:  # noqa: ANN401 - what a file holds, the caller finds out
    """Read a `.pth` or `.ckpt` file of tensors and plain types; anything else in it is refused, not run.

    Raises:
        PathMissing: there is no such file.
        WeightsInvalid: not a torch file, or one that holds more than tensors and plain types.
    """
    if not path.is_file():
        raise PathMissing(f"{path} does not exist; name a checkpoint or a weights file.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it remarks on foreign pickles just before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, OSError, AttributeError) as error:
        raise WeightsInvalid(
            f"{path} is not a file of plain tensors (it is damaged, or of another program); it was not loaded."
        ) from error


def read_hub_weights(path: Path) -> tuple[Architecture, dict[str, Tensor]]:
    """Read a DINOv2 file as the hub publishes it: `dinov2_vit{s,b,l,g}14_pretrain.pth`, and `..._reg4_pretrain.pth` with registers.

    Returns:
        The architecture that names and shapes tell, and the float32 state dict, which fits its network name by name.

    Raises:
        PathMissing, WeightsInvalid: no such file; another layout, or a shape that no published model has.
    """
    state = read_torch_file(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsInvalid(f"{path} is not a flat state dict; it takes DINOv2 files in the hub's layout.")
    missing = [name for name, axes in _HUB_MARKS.items() if name not in state or state[name].ndim != axes]
    if missing:
        raise WeightsInvalid(f"{path} is not a DINOv2 file in the hub's layout: it lacks {', '.join(missing)}.")
    architecture = _architecture_of(path, state)
    tensors = {name: tensor.float() for name, tensor in state.items()}
    try:
        with torch.device("meta"):  # names and shapes only: no memory, no random numbers
            problems = mismatch(build(architecture), tensors)
    except ArchitectureInvalid as error:
        raise WeightsInvalid(f"{path} has shapes of no network: {error}") from error
    if problems:
        raise WeightsInvalid(f"{path} does not fit the {architecture} that its shapes tell of: {problems}.")
    return architecture, tensors


def _architecture_of(path: Path, state: dict[str, Tensor]) -> Architecture:
    dim, patch_size = state["cls_token"].shape[-1], state["patch_embed.proj.weight"].shape[-1]
    cells = state["pos_embed"].shape[1] - 1
    grid = math.isqrt(max(cells, 0))
    swiglu = "blocks.0.mlp.w12.weight" in state
    first = state.get("blocks.0.mlp.w12.weight" if swiglu else "blocks.0.mlp.fc1.weight")
    if grid * grid != cells or not dim or dim % HEAD_WIDTH or first is None or not first.ndim:
        raise WeightsInvalid(f"{path} has a position table, a width or blocks that no published DINOv2 model has.")
    registers = state["register_tokens"].numel() // dim if "register_tokens" in state else 0
    return Architecture(
        "vit",
        {
            "image_size": grid * patch_size,
            "patch_size": patch_size,
            "dim": dim,
            "depth": len({match[1] for name in state if (match := re.match(r"blocks\.(\d+)\.", name))}),
            "heads": dim // HEAD_WIDTH,
            # A SwiGLU's width is rounded, so it does not tell the ratio; all published ones have this, and any other will not fit.
            "mlp_ratio": SWIGLU_RATIO if swiglu else first.shape[0] / dim,
            # The models with registers were trained with the resize that has no offset.
            "pos_embed_resize": "exact_antialias" if registers else "hub_offset",
            "registers": registers,
            "ffn": "swiglu" if swiglu else "mlp",
        },
    )
