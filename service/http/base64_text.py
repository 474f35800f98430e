"""Base64 text as programs write it: in lines, in the alphabet of URLs, without padding, in a data URI.

RFC 4648 has two alphabets and lets whoever takes base64 take it without padding; the shell's `base64` and MIME (RFC 2045) break it into
lines of 76. What has only one reading is read; what has none, or two, is refused and named.
"""

from __future__ import annotations

import binascii
import io
import re
from typing import Final

from backbone.errors import UnsupportedImageType
from service.concurrency.cooperative import Yielder

PART_CHARS: Final = 2**20  # read in one go, in 4 milliseconds; four characters are three bytes
_MAX_HEAD_CHARS: Final = 1000  # of a data URI, before its comma; some programs put the file's name there
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}:")  # the scheme of a URI; base64 has no colon
_AROUND: Final = "\ufeff \t\r\n"  # in front of a text that was a file
_BLANKS: Final = b" \t\r\n\v\f"
_MAX_PADDING: Final = 2
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_ALPHABETS: Final = (b"+/", b"-_")
_ESCAPES: Final = tuple(
    (escape, plain)
    for plain in (b"+", b"/", b"=", b"\r", b"\n", b" ")
    for escape in {b"%%%02X" % plain[0], b"%%%02x" % plain[0]}
)


def base64_of(text: str) -> tuple[str, bool]:
    """Return the base64 in a text, and whether it stood in a data URI (RFC 2397), where its signs may be percent-encoded.

    What the URI says of the type means as little as a file's name does: the bytes say it.

    Raises:
        UnsupportedImageType: it is an address, which nobody fetches, or a data URI without base64.
    """
    text = text.lstrip(_AROUND)  # no copy where there is nothing
    if not _ADDRESS.match(text):
        return text, False
    if text[:5].lower() != "data:":
        raise UnsupportedImageType("an address is not fetched; send the bytes of the image in base64.")
    comma = text.find(",", 0, _MAX_HEAD_CHARS)
    if comma < 0 or not text[:comma].rstrip().lower().endswith(";base64"):
        raise UnsupportedImageType(
            "a data URI of an image has ';base64,' before its bytes; write data:image/jpeg;base64,..."
        )
    return text[comma + 1 :], True


async def decode_leniently(text: str, in_uri: bool) -> bytes:
    """Return the bytes of base64 in any of its forms; in parts, between which the event loop answers others.

    Raises:
        ValueError: it is none; the error's text says why, as the end of a sentence about it.
    """
    decoder, yielder = _Decoder(in_uri), Yielder()
    for start in range(0, len(text), PART_CHARS):
        decoder.feed(text[start : start + PART_CHARS])
        await yielder.yield_if_due()
    return decoder.end()


class _Decoder:
    """Decodes a text part by part."""

    def __init__(self, in_uri: bool) -> None:
        self._in_uri = in_uri
        self._held = b""  # the beginning of an escape whose end is in the next part
        self._rest = b""  # up to three characters, which the next ones make four
        self._padding = 0
        self._alphabets: set[bytes] = set()
        self._data = io.BytesIO()

    def feed(self, text: str) -> None:
        """Decode a further part. Raises ValueError."""
        part = self._signs(text)
        signs = part.rstrip(b"=")
        if b"=" in signs or (self._padding and signs):
            raise ValueError("goes on after its padding ('=')")
        self._padding += len(part) - len(signs)
        signs = self._rest + signs
        whole = len(signs) // 4 * 4
        self._rest = signs[whole:]
        self._decode(signs[:whole])

    def end(self) -> bytes:
        """Return all of it. Raises ValueError."""
        if self._held or len(self._rest) == 1:
            raise ValueError("was cut off, or has a character too many")
        if self._padding > _MAX_PADDING:
            raise ValueError("has more padding ('=') than any length needs")
        self._decode(self._rest + b"=" * (-len(self._rest) % 4))
        return self._data.getvalue()

    def _signs(self, text: str) -> bytes:
        """Return what is not blank, in the standard alphabet."""
        try:
            part = self._held + text.encode("ascii")
        except UnicodeEncodeError:
            raise ValueError("has a character that base64 does not have") from None
        self._held = b""
        if self._in_uri and b"%" in part:
            part = self._unescaped(part)
        self._alphabets |= {alphabet for alphabet in _ALPHABETS if any(part.count(sign) for sign in alphabet)}
        if len(self._alphabets) > 1:
            raise ValueError("mixes its two alphabets, '+/' and '-_'")
        return part.translate(_TO_STANDARD, _BLANKS)

    def _unescaped(self, part: bytes) -> bytes:
        begun = part.rfind(b"%", -2)
        if begun >= 0:
            part, self._held = part[:begun], part[begun:]
        for escape, plain in _ESCAPES:
            part = part.replace(escape, plain)
        return part

    def _decode(self, signs: bytes) -> None:
        try:
            self._data.write(binascii.a2b_base64(signs, strict_mode=True))
        except binascii.Error:
            raise ValueError("has a character that base64 does not have") from None
