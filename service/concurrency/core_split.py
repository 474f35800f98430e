"""How calls that compute at the same time share a processor's threads: one that is alone has all of them, two have half each.

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
    """What computes on half of the threads, twice; thread-safe."""

    def __init__(self, halves: Sequence[T]) -> None:
        self._all = len(halves)
        self._free = list(halves)
        self._calls = 0  # that have a half, or wait for one
        self._changed = threading.Condition()
        self._entrance = threading.Lock()  # who waits for both halves is not overtaken by those who need one

    @contextmanager
    def taken(self, whole: bool = False) -> Iterator[Sequence[T]]:
        """Give all halves to a call that is alone or needs the whole, and one to a call that is not, once they are free."""
        with self._changed:
            self._calls += 1
        with self._entrance, self._changed:
            self._changed.wait_for(lambda: len(self._free) == self._all if whole else self._free)
            wanted = len(self._free) if whole or self._calls == 1 else 1
            mine = [self._free.pop() for _ in range(wanted)]
        try:
            yield mine
        finally:
            with self._changed:
                self._calls -= 1
                self._free += mine
                self._changed.notify_all()
