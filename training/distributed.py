"""Collectives over all processes of a run: sums, maxima, objects and rows; without a process group they are the local values.

Every function is a collective: all ranks call it, in the same order, whether or not they have anything to add.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

T = TypeVar("T")


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, counted from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def part() -> None:
    """End the process group, all ranks together: one that leaves while another still talks can bring it down. A collective."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def all_sum(value: Tensor) -> Tensor:
    """Return the sum over all ranks; the argument is left as it is."""
    return _reduced(value, dist.ReduceOp.SUM)


def all_objects(value: T) -> list[T]:
    """Return what every rank gave, in the order of the ranks; plain values and CPU tensors."""
    if world_size() == 1:
        return [value]
    gathered = [value] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def all_max(value: Tensor) -> Tensor:
    """Return the maximum over all ranks; the argument is left as it is."""
    return _reduced(value, dist.ReduceOp.MAX)


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


@torch.no_grad()
def _reduced(value: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    if world_size() == 1:
        return value
    result = value.detach().clone()
    dist.all_reduce(result, operation)
    return result


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
