"""Priorities of threads on a busy processor: what answers in a fraction of a millisecond goes before what computes for seconds.

On Linux each thread has a priority of its own, and what it starts, a library's threads or a process, inherits it. So decoding and the
network rank behind the event loop and searches, which are then woken at once, however many images are computed.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

# A third of the weight of a thread of the usual priority: it is put aside for one at once, and keeps three times the weight of the
# builds in the background (`child_process.NICENESS`). In two runs of S40, p99 of refusals was 5.3 ms with it and 11.7 without.
NICENESS: Final = 5
LOWEST_PRIORITY: Final = 19


def lower_priority() -> None:
    """Let this thread, and whatever it starts, give way to the main thread. It cannot be undone."""
    if sys.platform == "linux":  # elsewhere a priority is the whole process's
        main = os.getpriority(os.PRIO_PROCESS, os.getpid())
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(main + NICENESS, LOWEST_PRIORITY))


def run_at_low_priority(work: Callable[[], T]) -> T:
    """Return what `work` gives in a thread of low priority: for libraries, which keep the threads that they start in it."""
    with ThreadPoolExecutor(1, "low-priority", initializer=lower_priority) as thread:
        return thread.submit(work).result()
