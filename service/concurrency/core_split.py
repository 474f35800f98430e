"""A split of the processor's cores: a call that is alone computes on all of them, and of several each on a share.

Threads that compute one batch together wait for each other after every layer, so what anything else takes of one core is lost on all.
Two batches side by side do not wait for each other, and while one is put together or handed out, the other goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class CoreSplit(Generic[T]):
    """A pool of shares, each of which computes on its part of the cores; thread-safe."""

    def __init__(self, shares: Sequence[T]) -> None:
        self._total = len(shares)
        self._free = list(shares)
        self._calls = 0  # that have a share, or wait for one
        self._changed = threading.Condition()
        self._entrance = threading.Lock()  # who waits for all shares is not overtaken by those who need one

    @contextmanager
    def acquire(self, exclusive: bool = False) -> Iterator[Sequence[T]]:
        """Give all shares to a call that is alone or needs them all, and one to a call that is not, once they are free."""
        with self._changed:
            self._calls += 1
        with self._entrance, self._changed:
            self._changed.wait_for(lambda: len(self._free) == self._total if exclusive else self._free)
            wanted = len(self._free) if exclusive or self._calls == 1 else 1
            acquired = [self._free.pop() for _ in range(wanted)]
        try:
            yield acquired
        finally:
            with self._changed:
                self._calls -= 1
                self._free += acquired
                self._changed.notify_all()
