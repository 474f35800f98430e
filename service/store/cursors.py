"""Cursors of listings: where the next page starts, as opaque text bound to the listing it was given out for.

The text is base64url of JSON [listing, position] behind a checksum. The checksum is no secret: a forged cursor can only
ask for another place of a listing that its bearer may read anyway. What a position holds is checked by who reads it.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from typing import TypeVar

from service.errors import CursorInvalid, ServiceError

T = TypeVar("T")

MAX_CURSOR_CHARS = 4096  # an id of 512 characters of four bytes makes 2,800


def write_cursor(listing: str, position: str | list[float]) -> str:
    """Return the cursor that continues `listing` after `position`."""
    body = json.dumps([listing, position], ensure_ascii=False).encode()
    return base64.urlsafe_b64encode(zlib.crc32(body).to_bytes(4, "big") + body).decode()


def read_cursor(cursor: str, listing: str, parse: Callable[[object], T]) -> T:
    """Return `parse` of the position in a cursor.

    Raises CursorInvalid for text that is no cursor, for the cursor of another listing, and where `parse` raises
    ValueError, TypeError or a ServiceError.
    """
    try:
        raw = base64.b64decode(cursor[: MAX_CURSOR_CHARS + 1].encode("ascii"), altchars=b"-_", validate=True)
        intact = zlib.crc32(raw[4:]).to_bytes(4, "big") == raw[:4] and len(cursor) <= MAX_CURSOR_CHARS
        named, position = json.loads(raw[4:]) if intact else (None, None)
        if named == listing:
            return parse(position)
    except (ValueError, TypeError, RecursionError, ServiceError):
        named = None
    if named is None:
        raise CursorInvalid("the cursor is not one that was given out; start the listing without a cursor.")
    raise CursorInvalid("the cursor belongs to another listing; start this one without a cursor.")
