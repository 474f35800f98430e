"""A budget of bytes that all running requests share: each holds a part of it, and gives that back when it ends."""

from __future__ import annotations

from starlette.exceptions import HTTPException


class RequestMemory:
    """The bytes that all running requests together may hold. Used by the event loop alone."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0


class Reservation:
    """The part of it that one request holds; given back at the end of the block."""

    def __init__(self, memory: RequestMemory) -> None:
        self._memory = memory
        self._bytes = 0

    def __enter__(self) -> Reservation:
        """Hold nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give all of it back."""
        self._memory.held_bytes -= self._bytes

    def grow(self, more_bytes: int) -> None:
        """Hold so much more.

        Raises:
            HTTPException: there is not as much left (503), or was not from the beginning (413).
        """
        close = {"Connection": "close"}  # its body may be on the way, and nobody reads it
        if self._bytes + more_bytes > self._memory.limit_bytes:
            raise HTTPException(413, headers=close)
        if self._memory.held_bytes + more_bytes > self._memory.limit_bytes:
            raise HTTPException(503, headers=close)
        self._memory.held_bytes += more_bytes
        self._bytes += more_bytes
