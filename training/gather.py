"""Rows of all processes in one tensor, with gradient: for losses that compare an image with those of other ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

from training.ranks import rank, world_size


def all_gather_rows(x: Tensor) -> Tensor:
    """Put the rows of all ranks one after the other, in the order of the ranks; without a process group, return `x` itself.

    The gradient of a row is the sum of what all ranks' losses ask of it. Both passes are collectives: every rank calls this and
    goes backward through it, in the same order.

    Args:
        x: [B, D], of the same shape and type on every rank; this rank's rows become rows rank * B to (rank + 1) * B.

    Returns:
        [world size * B, D].
    """
    if world_size() == 1:
        return x
    gathered: Tensor = _AllGatherRows.apply(x)
    return gathered


class _AllGatherRows(torch.autograd.Function):
    """torch.distributed's own all_gather hands no gradient back."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        rows = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(rows, x.contiguous())
        return torch.cat(rows)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]
