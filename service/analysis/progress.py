"""Progress of long work: shares of the whole, and blocks that take about as long as one may keep a waiting person waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

TARGET_S = 0.25  # a block; who cancels waits one
LEAST = 32  # fewer queries at once do not pay the matrix product that answers them together
MOST = 4096

Progress = Callable[[float], None]  # takes the share that is done, 0 to 1; may raise to stop the work


def part_of(progress: Progress, begin: float, end: float) -> Progress:
    """Return the progress of a part that goes from `begin` to `end` of the whole."""
    return lambda share: progress(begin + (end - begin) * share)


def timed_blocks(count: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of consecutive blocks of `count` things; what the caller does with each sets the size of the next."""
    start, size = 0, LEAST
    while start < count:
        begun = time.monotonic()
        yield start, min(start + size, count)
        start += size
        took = max(time.monotonic() - begun, 1e-6)
        size = min(max(LEAST, int(size * min(TARGET_S / took, 2.0))), MOST)  # a lucky block does not double it twice
