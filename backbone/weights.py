"""Read weights: strictly, name by name, and never by running what a file says."""

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
from backbone.errors import PathMissing, WeightsInvalid

HEAD_WIDTH = 64  # D / H in every published DINOv2 model; the file does not say it

_HUB_MARKS = ("cls_token", "pos_embed", "mask_token", "patch_embed.proj.weight", "blocks.0.ls1.gamma", "norm.weight")


def load_strict(module: nn.Module, tensors: dict[str, Tensor]) -> str:
    """Copy `tensors` into `module`, all or nothing.

    Returns:
        An empty text, or what does not fit (missing, unexpected, shape, dtype); then nothing was copied.
    """
    wanted = module.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    problems += [f"{name} is unexpected" for name in tensors if name not in wanted]
    for name in wanted.keys() & tensors.keys():
        if wanted[name].shape != tensors[name].shape:
            problems.append(f"{name} is {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}")
        elif wanted[name].dtype != tensors[name].dtype:
            problems.append(f"{name} is {tensors[name].dtype} instead of {wanted[name].dtype}")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        return ", ".join(sorted(problems)[:3]) + more
    module.load_state_dict(tensors)
    return ""


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
    """Read a DINOv2 file as the hub publishes it (`dinov2_vits14_pretrain.pth` and its siblings without registers).

    Returns:
        The architecture that the shapes tell, and the float32 state dict, which `ViT` takes under the same names.

    Raises:
        PathMissing, WeightsInvalid: no such file; another layout, registers or SwiGLU.
    """
    state = read_torch_file(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsInvalid(f"{path} is not a flat state dict; it takes DINOv2 files in the hub's layout.")
    if "register_tokens" in state or "blocks.0.mlp.w12.weight" in state:
        raise WeightsInvalid(
            f"{path} has registers or SwiGLU blocks, which are not built in; take a model without them."
        )
    missing = [name for name in _HUB_MARKS if name not in state]
    if missing:
        raise WeightsInvalid(f"{path} is not a DINOv2 file in the hub's layout: it lacks {', '.join(missing)}.")
    architecture = _architecture_of(path, state)
    return architecture, {name: tensor.float() for name, tensor in state.items()}


def _architecture_of(path: Path, state: dict[str, Tensor]) -> Architecture:
    dim, patch_size = state["cls_token"].shape[-1], state["patch_embed.proj.weight"].shape[-1]
    grid = math.isqrt(max(state["pos_embed"].shape[1] - 1, 0))
    if grid * grid + 1 != state["pos_embed"].shape[1] or dim % HEAD_WIDTH or "blocks.0.mlp.fc1.weight" not in state:
        raise WeightsInvalid(f"{path} has a position table or a width that no published DINOv2 model has.")
    depth = 1 + max(int(match[1]) for name in state if (match := re.match(r"blocks\.(\d+)\.", name)))
    return Architecture(
        "vit",
        {
            "image_size": grid * patch_size,
            "patch_size": patch_size,
            "dim": dim,
            "depth": depth,
            "heads": dim // HEAD_WIDTH,
            "mlp_ratio": state["blocks.0.mlp.fc1.weight"].shape[0] / dim,
            "pos_embed_resize": "hub_offset",
        },
    )
