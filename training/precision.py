"""Mixed precision: where numbers are computed in how many bits."""

from __future__ import annotations

import torch
from torch import Tensor

from training.config import Precision


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def full_precision(x: Tensor) -> torch.autocast:
    """Return a context in which operations on the device of `x` are not cast down.

    Heads and losses need it: bfloat16 knows a cosine to 0.004, and divided by a temperature of 0.04 that is a tenth of a nat;
    at the start of a run the images differ by less.
    """
    return torch.autocast(x.device.type, enabled=False)


def chosen_precision(precision: Precision) -> Precision:
    """Return what `auto` means on this machine: bf16 on a GPU that computes in it, else 32; any other key as it is.

    float16 is taken only where it is asked for, since its range needs a loss scale.
    """
    if precision != "auto":
        return precision
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32"


def highest_precision(x: Tensor) -> Tensor:
    """Return `x` in float64, or in float32 on Apple's GPUs, which have nothing wider."""
    return x.float() if x.device.type == "mps" else x.double()


def autocast_dtype(precision: Precision) -> torch.dtype | None:
    """Return what the key `precision` lets matrix products be computed in; None is float32."""
    return {"bf16": torch.bfloat16, "16": torch.float16}.get(chosen_precision(precision))


def loss_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Return PyTorch's dynamic loss scale for float16 (arXiv:1710.03740, 3.2); for any other precision one that does nothing."""
    return torch.amp.GradScaler(device.type, enabled=autocast_dtype(precision) is torch.float16)
