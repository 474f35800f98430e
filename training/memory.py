"""The most memory that a run has needed so far."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from pathlib import Path

import torch

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
    mine = _peak_resident_bytes("self")
    if mine is None:
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss: bytes or KiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB
    children = (_peak_resident_bytes(str(child.pid)) or 0 for child in multiprocessing.active_children())
    return (mine + sum(children)) / GIB


def _peak_resident_bytes(process: str) -> int | None:
    """The high-water mark of a process's resident set; None where the system does not say, or the process has ended."""
    try:
        status = Path("/proc", process, "status").read_text()
    except OSError:
        return None
    marks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(marks[0]) * 1024 if marks else None  # the kernel's kB are KiB; a process that is ending has none
