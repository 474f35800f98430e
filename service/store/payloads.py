"""Payloads of points: what they may hold, and their form as text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from service.errors import InvalidPayload

MAX_PAYLOAD_BYTES = 64 * 1024  # a description of an image, not a document store
MAX_PAYLOAD_DEPTH = 32  # far below the recursion limits of Python's and SQLite's JSON readers
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=dict)


def encode_payload(value: object) -> str | None:
    """Return the JSON text of a payload (None stays None).

    Raises InvalidPayload for anything but an object of JSON values up to 64 KiB and 32 levels, without NaN, Inf,
    lone surrogates and U+0000 (at which SQLite would cut a string off).
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidPayload("the payload must be a JSON object.")
    _check_json(value, MAX_PAYLOAD_DEPTH)
    try:
        text = _JSON.encode(value)
        size = len(text.encode())
    except (ValueError, TypeError) as error:  # a lone surrogate, or an integer of more digits than Python prints
        raise InvalidPayload(f"the payload cannot be written as JSON: {error}.") from None
    if size > MAX_PAYLOAD_BYTES:
        raise InvalidPayload(f"the payload has {size} bytes as JSON; {MAX_PAYLOAD_BYTES} are allowed.")
    return text


def _check_json(value: object, depth: int) -> None:
    if depth < 0:
        raise InvalidPayload(f"the payload is nested deeper than {MAX_PAYLOAD_DEPTH} levels.")
    match value:  # the commonest first: a put of many small payloads spends a tenth of its time here
        case None | bool() | int():
            pass
        case str():
            if "\0" in value:
                raise InvalidPayload("the payload contains the character U+0000, which cannot be kept; leave it out.")
        case list() | tuple():
            for item in value:
                _check_json(item, depth - 1)
        case float() if not math.isfinite(value):
            raise InvalidPayload("the payload contains NaN or Inf, which JSON does not have.")
        case float():
            pass
        case Mapping():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise InvalidPayload("the keys of a payload must be strings.")
                _check_json(key, depth)
                _check_json(item, depth - 1)
        case _:
            raise InvalidPayload(f"the payload contains a {type(value).__name__}, which JSON does not have.")
