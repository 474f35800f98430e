"""Batch normalisation by the statistics of the batches of all processes of a run together.

Ioffe and Szegedy 2015 (arXiv:1502.03167). Normalising by the statistics of one process's share would be noisier than by those of the
whole batch, and what is learnt would depend on the number of processes. torch's own module for this takes CUDA tensors only; the one
here is for every other device, so that what runs on CPUs can be compared with one process.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm

from training.distributed import all_sum, world_size


def convert(module: nn.Module, device_type: str) -> nn.Module:
    """Let every batch normalisation in `module` take its statistics over all processes.

    Parameters and buffers stay the same objects under the same names, so optimizers and averages that hold them stay right.

    Args:
        module: any network; its layers are replaced in place.
        device_type: where it will run, as `torch.device.type` says it.

    Returns:
        `module`, or its replacement where it is a batch normalisation itself.
    """
    if device_type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return converted
    if isinstance(module, _BatchNorm) and not isinstance(module, SyncedBatchNorm):
        return SyncedBatchNorm.like(module)
    for name, child in module.named_children():
        setattr(module, name, convert(child, device_type))
    return module


class SyncedBatchNorm(_BatchNorm):
    """`torch.nn.BatchNorm1d`, 2d and 3d with the batch statistics of all processes; alone, or in evaluation, just that.

    In training every process calls it, equally often and in the same order; the shares of the batch need not be equal.
    """

    @classmethod
    def like(cls, other: _BatchNorm) -> SyncedBatchNorm:
        """Return one with the settings, the mode, the parameters and the buffers of `other`; nothing is copied."""
        made = cls(other.num_features, other.eps, other.momentum, other.affine, other.track_running_stats)
        made.weight, made.bias = other.weight, other.bias
        made.running_mean, made.running_var = other.running_mean, other.running_var
        made.num_batches_tracked = other.num_batches_tracked
        return made.train(other.training)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, ...] -> [B, C, ...], of the dtype of `x`; the arithmetic is float32 at least.

        Raises:
            ValueError: fewer than two axes, or one value a channel in all batches together, which has no spread.
        """
        self._check_input_dim(x)
        if not self.training or world_size() == 1:
            return super().forward(x)
        values = x.to(torch.promote_types(x.dtype, torch.float32)).transpose(1, -1)  # [B, ..., C]
        axes = tuple(range(values.ndim - 1))
        own = values.new_full((1,), values.numel() // values.shape[-1])
        totals: Tensor = _AllSum.apply(torch.cat([values.sum(axes), own]))  # [C + 1]
        count = totals[-1].detach()
        if count < 2:
            raise ValueError(f"batch normalisation needs more than 1 value per channel, got input of {tuple(x.shape)}")
        mean = totals[:-1] / count  # [C]
        centred = values - mean
        # A second sum, of squares around the mean: the difference of two large sums would lose the digits.
        variance = _AllSum.apply(centred.square().sum(axes)) / count  # [C], biased
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        normalised = centred * (variance + self.eps).rsqrt()
        if self.weight is not None:
            normalised = normalised * self.weight
        if self.bias is not None:
            normalised = normalised + self.bias
        return normalised.transpose(1, -1).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of this batch: by `momentum`, or, where it is None, to the mean of all so far."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim < 2:
            raise ValueError(f"batch normalisation takes [B, C] or [B, C, ...], got input of {tuple(x.shape)}")


class _AllSum(torch.autograd.Function):
    """The sum over all processes, which each of them goes on with: so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor) -> Tensor:
        return all_sum(value)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return all_sum(gradient)
