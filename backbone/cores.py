"""How many cores there are to use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Return how many cores this process may run on (a container or `taskset` may give it fewer than the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
