"""The rule of texts that are kept, such as labels: how long they are, and which characters they cannot have."""

from __future__ import annotations

import unicodedata

MAX_LABEL_CHARS = 512  # as many as an id may have, so that a file path can serve as a label


def fault_of(text: str, max_chars: int) -> str | None:
    """Return what is wrong with a text, to go on after its name; None where nothing is."""
    if not 1 <= len(text) <= max_chars:
        return f"has {len(text)} characters; 1 to {max_chars} are allowed"
    # Cc: control characters; Cs: lone surrogates, which no UTF-8 text can hold (they come from undecodable file names)
    if not text.isascii() or not text.isprintable():
        bad = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs")), None)
        if bad is not None:
            return f"contains the character U+{ord(bad):04X}, which cannot be kept; leave it out"
    return None
