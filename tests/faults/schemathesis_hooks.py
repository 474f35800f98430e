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
