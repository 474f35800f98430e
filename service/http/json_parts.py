"""JSON answers in parts: large ones are neither written in one go, nor copied as a whole on their way out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.concurrency.cooperative import Yielder

_BLOCK_NUMBERS: Final = 2**16  # which take 2 milliseconds to write
_MIN_PART_BYTES: Final = 64 * 1024  # sent at once


class PartsResponse(Response):
    """An answer of parts that are there, with its length."""

    def __init__(self, parts: Sequence[bytes], media_type: str) -> None:
        length = sum(map(len, parts))
        super().__init__(None, headers={"Content-Length": str(length)}, media_type=media_type)
        self._parts = [*_joined(parts)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them one by one."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        yielder = Yielder()
        for left, part in zip(range(len(self._parts) - 1, -1, -1), self._parts, strict=True):
            await send({"type": "http.response.body", "body": part, "more_body": left > 0})
            await yielder.yield_if_due()


def _joined(parts: Sequence[bytes]) -> Iterator[bytes]:
    """Yield all of it in parts that are worth sending."""
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= _MIN_PART_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


def json_list(items: Iterable[Sequence[bytes]]) -> list[bytes]:
    """Return the parts of a JSON list from the parts of its items."""
    parts = [b"["]
    for item in items:
        parts += [b",", *item] if len(parts) > 1 else item
    return [*parts, b"]"]


async def json_numbers(array: NDArray[Any], yielder: Yielder) -> list[bytes]:
    """Return the parts of an array [D] or [N, D] as JSON."""
    rows = max(1, _BLOCK_NUMBERS // max(1, array[0].size))
    blocks = []
    for start in range(0, len(array), rows):
        block = np.ascontiguousarray(array[start : start + rows])
        blocks += [b"," if start else b"[", orjson.dumps(block, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]]
        await yielder.yield_if_due()
    return [*blocks, b"]"]
