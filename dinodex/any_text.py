"""Output that takes any text, names of files above all: what its encoding does not have is escaped, not an error."""

from __future__ import annotations

import codecs
from typing import TextIO

# As JSON escapes it. Python's `backslashreplace` writes `\\xe9` and `\\U0001f600`, which JSON cannot read back.
ESCAPED = "dinodex.escaped"


def show_any_text(stream: TextIO | None) -> None:
    """Let a stream take text that its encoding does not have, names of files above all: escaped, as JSON does."""
    if (reconfigure := getattr(stream, "reconfigure", None)) is not None and getattr(stream, "errors", "") == "strict":
        reconfigure(errors=ESCAPED)


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)), error.end


codecs.register_error(ESCAPED, _escape)
