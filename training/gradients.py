"""Keeping gradients within a limit before the optimizer sees them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


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
