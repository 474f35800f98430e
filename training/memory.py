"""The peak memory of a run so far."""

from __future__ import annotations

import multiprocessing

import torch

from backbone.machine import peak_resident_bytes, peak_resident_bytes_of

GIB = 2**30


def peak_memory_gib(device: torch.device) -> float:
    """Return the peak since the process began, in GiB; nothing here resets it, so it never falls while the same processes live.

    On a GPU: what PyTorch had allocated on it at once, without what its allocator holds in reserve; memory of the host does not count.

    Elsewhere: the peak resident memory of this process and of its live children, the workers that load images. Each peak may have been
    at another time, and pages that a forked worker shares with this process count for both, so it is an upper bound. Without /proc it
    is this process alone.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    children = (peak_resident_bytes_of(child.pid or 0) or 0 for child in multiprocessing.active_children())
    return (peak_resident_bytes() + sum(children)) / GIB
