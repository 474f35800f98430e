"""What every figure stands on: processor, cores, versions; and the median of repeated runs."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path


def describe() -> str:
    """Return one line about this machine and the versions that matter."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "faiss-cpu", "openvino", "numpy", "pillow"))
    return f"{cpu}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, {versions}"


def seconds(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median_seconds(work: Callable[[], object], runs: int = 3) -> float:
    """Return the median of several calls: these machines are shared and noisy."""
    return statistics.median(seconds(work) for _ in range(runs))
