"""Where numbers are computed in how many bits."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def full_precision(x: Tensor) -> torch.autocast:
    """Return a context in which operations on the device of `x` are not cast down.

    Heads and losses need it: bfloat16 knows a cosine to 0.004, and divided by a temperature of 0.04 that is a tenth of a nat;
    at the start of a run the images differ by less.
    """
    return torch.autocast(x.device.type, enabled=False)


def uses_bf16(precision: str) -> bool:
    """Say whether the key `precision` means mixed bfloat16 on this machine; `auto` does on a GPU that computes in it."""
    if precision == "auto":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return precision == "bf16"
