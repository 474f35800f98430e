"""The optimizer of a run: AdamW over groups of parameters that are treated alike, and what happens to gradients before its step."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from training.config import ResolvedConfig

# Decay pulls weights of a matrix towards zero. A bias, a norm, a LayerScale or a weight-norm length has no reason to be small: all that
# is 1-D, and by name torchvision's LayerScale in a ConvNeXt, [D, 1, 1], and the length of a prototype, [K, 1].
UNDECAYED = (".layer_scale", ".weight.original0")


def make_optimizer(student: nn.Module, config: ResolvedConfig) -> torch.optim.AdamW:
    """Return AdamW with PyTorch's betas and epsilon, as both papers have them; `write_schedule` sets its rates before every step.

    Args:
        student: a `method.Network`; what does not require gradients is left out.
        config: the keys of the run.
    """
    blocks = getattr(student.backbone, "blocks", ())
    return torch.optim.AdamW(parameter_groups(student, len(blocks), config.layer_decay, config.patch_embed_lr), lr=0.0)


@dataclass(frozen=True)
class Treatment:
    """How one parameter is trained; parameters treated alike form a group."""

    lr_scale: float
    decay: bool
    last_layer: bool


def treatment(name: str, parameter: Tensor, depth: int, layer_decay: float, patch_embed_lr: float) -> Treatment:
    """Decide for one parameter of the student.

    Args:
        name: as `named_parameters` of the student gives it: `backbone.blocks.3.attn.qkv.weight`, `head.last_layer...`.
        parameter: the tensor.
        depth: number of transformer blocks L (0 for a network without blocks, which gets no layer-wise decay).
        layer_decay: factor d: tokens, positions and patches learn at d^(L+1), block i at d^(L-i), the rest at 1 (arXiv:2106.08254).
        patch_embed_lr: a further factor on the patch projection (arXiv:2304.07193, appendix B; MoCo v3 froze it).
    """
    scale = 1.0
    if name.startswith("backbone.") and depth:
        block = re.match(r"backbone\.blocks\.(\d+)\.", name)
        if block:
            scale = layer_decay ** (depth - int(block[1]))
        elif "norm" not in name:
            scale = layer_decay ** (depth + 1)
    if ".patch_embed." in name:
        scale *= patch_embed_lr
    free = parameter.ndim <= 1 or name.endswith(UNDECAYED)
    return Treatment(scale, not free, ".last_layer." in name)


def parameter_groups(
    student: nn.Module, depth: int, layer_decay: float = 1.0, patch_embed_lr: float = 1.0
) -> list[dict[str, Any]]:
    """Group the trainable parameters of `student` for an optimizer, fused where they are treated alike.

    Each group carries `lr_scale`, `decays` and `last_layer`, which `write_schedule` reads.
    """
    groups: dict[Treatment, list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            how = treatment(name, parameter, depth, layer_decay, patch_embed_lr)
            groups.setdefault(how, []).append(parameter)
    return [
        {"params": parameters, "lr_scale": how.lr_scale, "decays": how.decay, "last_layer": how.last_layer}
        for how, parameters in groups.items()
    ]


def write_schedule(groups: Iterable[dict[str, Any]], lr: float, weight_decay: float) -> None:
    """Set this step's learning rate and weight decay in every group."""
    for group in groups:
        group["lr"] = lr * group["lr_scale"]
        group["weight_decay"] = weight_decay if group["decays"] else 0.0


def drop_last_layer_gradients(groups: Iterable[dict[str, Any]]) -> None:
    """Freeze the last layer for this step.

    Without a gradient the optimizer leaves weights, moments and decay alone; a learning rate of 0 would let the moments grow.
    """
    for group in groups:
        if group["last_layer"]:
            for parameter in group["params"]:
                parameter.grad = None


def clip_gradients(student: nn.Module, limit: float, by: Literal["whole", "module", "parameter"]) -> Tensor:
    """Shorten gradients in place to at most `limit` (Pascanu et al. 2013, arXiv:1211.5063, algorithm 1).

    Nothing here waits for a GPU. A norm that is not finite is returned as it is, so that a guard can see it.

    Args:
        student: the network itself, not a wrapper; parameters without a gradient are passed over.
        limit: the greatest Euclidean norm.
        by: what is measured and shortened together. `whole`: all gradients, which keeps the direction of the step. `module`: each
            child of `student`, as DINOv2 does with backbone and heads, so that a burst in one leaves the others alone.
            `parameter`: each tensor, as DINO's public code does.

    Returns:
        The norm of the whole gradient before clipping, a scalar on the device of the parameters; 0 where there is no gradient.
    """
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if parameter.grad is not None:
            group = {"whole": "", "module": name.partition(".")[0], "parameter": name}[by]
            groups.setdefault(group, []).append(parameter)
    if not groups:
        return next(student.parameters()).new_zeros(())
    return torch.linalg.vector_norm(torch.stack([nn.utils.clip_grad_norm_(group, limit) for group in groups.values()]))
