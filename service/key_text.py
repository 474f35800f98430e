"""Keys as text: what a file or a variable holds, as the bytes that a header carries.

Editors of Windows put a byte-order mark in front of a text, and its shells write UTF-16; neither shows. A header carries any byte but
the control characters (RFC 9110, section 5.5), so a key with one of those could never be presented: its owner would hear 401 for ever.
"""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Final

MAX_KEY_BYTES: Final = 32 * 1024  # half of what all headers of a request may have
_UTF16_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # UTF-32 begins with the first one, or with NUL
_TAB: Final = 0x09  # the one control character that the middle of a header may have


def read_key_file(path: Path) -> bytes:
    """Return the key that a file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: no header can carry what it holds; its text says what that is, as the end of a sentence about the file.
    """
    with path.open("rb") as file:
        return header_key(file.read(MAX_KEY_BYTES + 1))  # a device gives more than anybody wants


def header_key(text: bytes) -> bytes:
    """Return a key without a byte-order mark and the blanks around it; empty where there is nothing else. Raises as `read_key_file`."""
    if len(text) > MAX_KEY_BYTES:
        raise ValueError(f"holds more than {MAX_KEY_BYTES // 1024} KiB, and no key is so long")
    if text.startswith(_UTF16_MARKS) or b"\0" in text:
        raise ValueError("is UTF-16 text, or has NUL characters")
    key = text.removeprefix(codecs.BOM_UTF8).strip()
    if b"\n" in key or b"\r" in key:
        raise ValueError("has more than one line")
    if any((code < 0x20 and code != _TAB) or code == 0x7F for code in key):
        raise ValueError("has a control character, which no header can carry")
    return key
