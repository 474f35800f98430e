"""A budget of bytes that all running requests share: each holds a part of it, and gives that back when it ends."""

from __future__ import annotations

from starlette.exceptions import HTTPException


class RequestMemory:
    """The bytes that all running requests together may hold. Used by the event loop alone."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0


class Holding:
    """What one request holds of it; given back at the end of the block."""

    def __init__(self, memory: RequestMemory) -> None:
        self._memory = memory
        self._held = 0

    def __enter__(self) -> Holding:
        """Hold nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give all of it back."""
        self._memory.held -= self._held

    def grow(self, more: int) -> None:
        """Hold so much more.

        Raises:
            HTTPException: there is not as much left (503), or was not from the beginning (413).
        """
        close = {"Connection": "close"}  # its body may be on the way, and nobody reads it
        if self._held + more > self._memory.most:
            raise HTTPException(413, headers=close)
        if self._memory.held + more > self._memory.most:
            raise HTTPException(503, headers=close)
        self._memory.held += more
        self._held += more
