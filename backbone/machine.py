"""The machine as a process sees it: how many cores it may use, and the most memory that it has needed."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path


def usable_cores() -> int:
    """Return how many cores this process may run on (a container or `taskset` may give it fewer than the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_resident_bytes() -> int:
    """Return the most memory that this process had so far."""
    peak = peak_resident_bytes_of("self")
    if peak is not None:  # what getrusage says may be the peak of the program that started this one
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_resident_bytes_of(process: int | str) -> int | None:
    """Return the high-water mark of a process's resident set; None where the system does not say, or the process has ended."""
    try:
        status = Path("/proc", str(process), "status").read_text()
    except OSError:
        return None
    marks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(marks[0]) * 1024 if marks else None  # the kernel's kB are KiB; a process that is ending has none
