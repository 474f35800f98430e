"""A versioned LRU cache: what was computed of a collection, with the version of the collection that it was computed from."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class VersionedCache(Generic[Key, Value]):
    """The values of the `most` keys that were used last. Every method may be called from any thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[Key, tuple[int, Value]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> tuple[int, Value] | None:
        """Return a key's newest value behind its version, None where there is none."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: Key, version: int, value: Value) -> None:
        """Keep the value of a key at a version, unless a newer one is there: a reader may still work on an older snapshot."""
        with self._lock:
            known = self._entries.get(key)
            if known is None or known[0] <= version:
                self._entries[key] = (version, value)
            self._entries.move_to_end(key)
            while len(self._entries) > self._most:
                self._entries.popitem(last=False)
