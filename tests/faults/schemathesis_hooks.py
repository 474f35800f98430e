"""What schemathesis cannot draw by itself: text that is an image. Its process loads this file."""

from __future__ import annotations

import base64

import schemathesis
from hypothesis import strategies as st
from pictures import encoded, picture

_IMAGES = {kind: base64.b64encode(encoded(picture(8, 8), kind)).decode() for kind in ("JPEG", "PNG", "WEBP")}

schemathesis.openapi.format("byte", st.sampled_from(list(_IMAGES.values())))
schemathesis.openapi.format(
    "uri", st.sampled_from([f"data:image/{kind.lower()};base64,{text}" for kind, text in _IMAGES.items()])
)


@schemathesis.hook
def filter_query(_context: schemathesis.HookContext, query: dict[str, object]) -> bool:
    """Leave out an empty list or object as the wrong value of a parameter: the URL that is sent then has nothing of it."""
    return not any(value in ([], {}) for value in (query or {}).values())
