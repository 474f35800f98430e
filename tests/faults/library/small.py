"""Small libraries that have what only large ones have: many segments, and main segments built in the background."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

# Constants of the service and what they are in these tests.
SMALL = {
    "service.index.vector_index.SEGMENT_BYTES": 640,  # ten vectors of 16 dimensions
    "service.index.planner.BUILD_POINTS": 40,
    "service.index.planner.EXTEND_POINTS": 20,
    "service.index.planner.EXACT_POINTS": 120,  # beyond it a process builds an approximate index
    "service.index.approximate.VECTORS_PER_EF": 1,  # else so few vectors are always compared one by one
    "service.library.builder.RETRY_S": 0.1,
    "service.store.database.CHECKPOINT_BYTES": 2**18,  # else small disks would hold logs alone
}


@contextmanager
def small() -> Iterator[None]:
    """Let libraries that are opened in the block behave like large ones."""
    with ExitStack() as patches:
        for name, value in SMALL.items():
            patches.enter_context(patch(name, value))
        yield
