"""Large JSON, parsed in slices: a parser is done with a text in one go, and no other thread gets between.

So the one long list that a large body has (points, queries, images, the numbers of a vector) is cut at its commas; each slice is parsed
and checked by itself. Between two of them the event loop answers others, and after the first wrong one nothing more is parsed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException

from service.errors import TooManyItems

M = TypeVar("M", bound=BaseModel)

SLICE_BYTES: Final = 32 * 1024  # at most 16,384 numbers or 3,000 points: 2 or 10 milliseconds to parse and check
COUNTED_BYTES: Final = 2**20  # of these the values are counted in one go, in a millisecond
# Of what cannot be cut, such as one point, which has a thousandth of it: some 20 milliseconds.
MAX_VALUES: Final = 2**18
_ESCAPED: Final = ((b"\\\\", b".."), (b'\\"', b".."))  # a backslash, and a quote that ends nothing


@dataclass
class LongList:
    """Where the long list of a text is: its brackets, and the commas at which it is cut."""

    begin: int
    end: int = -1
    commas: list[int] = field(default_factory=list)

    def slices(self) -> Iterator[tuple[int, int]]:
        """Yield where each slice begins and ends."""
        edges = [self.begin, *self.commas, self.end]
        return ((before + 1, after) for before, after in pairwise(edges))


async def parse_large(text: bytes, model: type[M], max_items: int) -> M:
    """Return JSON as `model`.

    Raises:
        ValueError: it is none; as pydantic's ValidationError, it has another shape.
        TooManyItems: the long list has more than `max_items`.
        HTTPException: 413, a part that cannot be cut has more values than anything that is taken here.
    """
    long = await find_long_list(text)
    if long is None:
        return model.model_validate(await parse_bounded(text))
    marker = secrets.token_hex(16)
    rest = await parse_bounded(text[: long.begin] + f'"{marker}"'.encode() + text[long.end + 1 :])
    if not isinstance(rest, dict):
        return model.model_validate(rest)
    key = next((key for key, value in rest.items() if value == marker), None)
    if key is None:
        raise ValueError("a key that is there twice")
    found: list[Any] = []
    for begin, end in long.slices():
        alone = b"".join((b"[[", memoryview(text)[begin:end], b"]]"))  # two lists: nested no deeper than in the whole
        items = (await parse_bounded(alone))[0]
        if not items and long.commas:
            raise ValueError("two commas with nothing between them")
        try:
            checked = model.model_validate({**rest, key: items})
        except ValidationError as error:
            raise _with_offset(error, key, len(found)) from error
        found += getattr(checked, key, items)
        if len(found) > max_items:
            raise TooManyItems(f"{key[:100]} has more than {max_items:,} items, the limit; send them in parts.")
        await asyncio.sleep(0)
    return checked.model_copy(update={key: found})


async def parse_bounded(text: bytes) -> Any:  # noqa: ANN401 - JSON
    """Return JSON that is parsed in one go. Raises ValueError, and HTTPException (413) where that would take long."""
    if len(text) > SLICE_BYTES:
        await _bound_values(text)
    return from_json(text)


async def _bound_values(text: bytes) -> None:
    """Refuse a text of too many values. Raises HTTPException (413).

    Of an image in base64 this takes several times as long as to parse it, which is to copy it.
    """
    values = 0
    for start in range(0, len(text), COUNTED_BYTES):
        values += sum(text.count(sign, start, start + COUNTED_BYTES) for sign in (b",", b"["))
        if values > MAX_VALUES:
            raise HTTPException(413)
        await asyncio.sleep(0)


def _with_offset(error: ValidationError, key: str, offset: int) -> ValidationError:
    """Return the error with the items of its list counted from the first one of the whole."""
    details: list[Any] = error.errors(include_url=False)
    for each in details:
        name, *places = each["loc"]
        if name == key and places and isinstance(places[0], int):
            each["loc"] = (name, offset + places[0], *places[1:])
    return ValidationError.from_exception_data(error.title, details)


async def find_long_list(text: bytes) -> LongList | None:
    """Return the first list in the outermost object that does not end within the window in which it begins; None where there is none.

    Raises:
        ValueError: it has no end, or that of an object.
    """
    found: LongList | None = None
    depth, in_string = 0, False
    for start, end in _windows(text):
        commas, deltas, depths, in_string = _structure(text[start:end], depth, in_string)
        depth = int(depths[-1])
        if found is None:
            openings = start + np.flatnonzero((deltas == 1) & (depths == 2))
            if depth >= 2 and len(openings) and text[openings[-1]] == ord("["):
                found = LongList(int(openings[-1]))
        if found is not None:
            closings = start + np.flatnonzero((deltas == -1) & (depths == 1))
            closings = closings[closings > found.begin]
            found.end = int(closings[0]) if len(closings) else -1
            cuts = start + np.flatnonzero(commas & (depths == 2))
            cuts = cuts[(cuts > found.begin) & ((cuts < found.end) | (found.end < 0))]
            found.commas += cuts[-1:].tolist()
            if found.end >= 0:
                break
        await asyncio.sleep(0)
    if found is not None and (found.end < 0 or text[found.end] != ord("]")):
        raise ValueError("a list that does not end as one")
    return found


def _windows(text: bytes) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of windows, none of which ends behind a backslash."""
    start = 0
    while start < len(text):
        end = start + SLICE_BYTES
        while text[end - 1 : end] == b"\\":
            end += SLICE_BYTES
        yield start, end
        start = end


def _structure(
    window: bytes, depth: int, in_string: bool
) -> tuple[NDArray[np.bool_], NDArray[np.int8], NDArray[np.int32], bool]:
    """Return of each byte whether it is a comma, by how much it nests and how deep that is; and whether a string goes on."""
    if b"\\" in window:
        for escaped, plain in _ESCAPED:
            window = window.replace(escaped, plain)
    codes = np.frombuffer(window, np.uint8)
    quotes = np.cumsum(codes == ord('"'), dtype=np.uint8)  # it may wrap: odd stays odd
    inside = (quotes + np.uint8(in_string)) & 1
    outside = inside == 0
    opens = (codes == ord("[")) | (codes == ord("{"))
    closes = (codes == ord("]")) | (codes == ord("}"))
    deltas = (opens.astype(np.int8) - closes.astype(np.int8)) * outside
    depths = np.cumsum(deltas, dtype=np.int32) + np.int32(depth)
    return (codes == ord(",")) & outside, deltas, depths, bool(inside[-1])
