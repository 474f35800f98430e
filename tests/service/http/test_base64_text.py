"""Base64 as programs write it: every form with one reading is read as the strict one is, and what is wrong is named."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from backbone.errors import UnsupportedImageType
from service.errors import MalformedRequest
from service.http.base64_text import PART_CHARS
from service.http.bodies import decode_base64

if TYPE_CHECKING:
    from starlette.testclient import TestClient

BYTES = bytes(range(256)) * 3  # every sign of the alphabet, at every place
LENGTHS = (len(BYTES), len(BYTES) - 1, len(BYTES) - 2)  # no padding, one sign of it, two


def standard(data: bytes) -> str:
    return base64.b64encode(data).decode()


def lines(text: str, width: int, end: str) -> str:
    return end.join(text[start : start + width] for start in range(0, len(text), width))


def url_safe(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


FORMS: dict[str, Callable[[bytes], str]] = {
    "strict": standard,
    "the shell's": lambda data: lines(standard(data), 76, "\n") + "\n",
    "MIME's": lambda data: lines(standard(data), 76, "\r\n") + "\r\n",
    "OpenSSL's": lambda data: lines(standard(data), 64, "\n") + "\n",
    "a blank and a tab": lambda data: " " + standard(data)[:5] + "\t" + standard(data)[5:] + " ",
    "of URLs": url_safe,
    "of URLs without padding": lambda data: url_safe(data).rstrip("="),
    "without padding": lambda data: standard(data).rstrip("="),
    "half of its padding": lambda data: standard(data).replace("==", "="),
    "padding on a line of its own": lambda data: standard(data).rstrip("=") + "\n" + "=" * standard(data).count("="),
    "a file with the mark of Windows": lambda data: "\ufeff" + standard(data) + "\r\n",
    "data URI": lambda data: "data:image/png;base64," + standard(data),
    "data URI in capitals": lambda data: "DATA:IMAGE/PNG;BASE64," + standard(data),
    "data URI with parameters": lambda data: "data:image/png;charset=utf-8;name=a%20b.png;base64," + standard(data),
    "data URI without a type": lambda data: "data:;base64," + standard(data),
    "data URI of a browser that knows no type": lambda data: "data:application/octet-stream;base64," + standard(data),
    "data URI, percent-encoded": lambda data: "data:image/png;base64," + quote(standard(data), safe=""),
    "data URI, escapes in small letters": lambda data: (
        "data:image/png;base64," + standard(data).replace("+", "%2b").replace("/", "%2f").replace("=", "%3d")
    ),
    "data URI of URLs, in lines": lambda data: " data:image/png;base64,\n" + lines(url_safe(data), 76, "\n"),
}


def decoded(text: str) -> bytes:
    return asyncio.run(decode_base64(text))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", LENGTHS)
def test_u20_base64_is_read_in_whatever_form_programs_write_it(form: str, length: int) -> None:
    assert decoded(FORMS[form](BYTES[:length])) == BYTES[:length]


@pytest.mark.parametrize("form", FORMS)
def test_u20_a_text_of_several_parts_is_read_as_one(form: str) -> None:
    data = (b"\xfb\xff\xfe" * (PART_CHARS // 3))[
        : PART_CHARS - 1
    ]  # '+', '/' and others; escapes and lines across the cuts
    assert decoded(FORMS[form](data)) == data


WRONG = {
    "mixes its two alphabets": "AA+_AAAA",
    "mixes them in two parts": "+" * PART_CHARS + "_" * 4,
    "goes on after its padding": "QQ==QUJD",
    "goes on after it in another line": "QQ==\nQUJD",
    "goes on after it in another part": "A" * (PART_CHARS - 2) + "==" + "AAAA",
    "more padding than two": "QQ===",
    "padding alone": "====",
    "a character too many": "QUJDQ",
    "a character that base64 does not have": "QUJ*",
    "a percent sign": "QUI%3D",
    "a letter of no alphabet": "QUJä",
    "an escape that ends": "data:image/png;base64,QUI%3",
    "an escape of something else": "data:image/png;base64,QUI%41",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_u20_base64_with_no_reading_or_two_is_refused_by_name(wrong: str) -> None:
    with pytest.raises(MalformedRequest) as refusal:
        decoded(WRONG[wrong])
    named = ("alphabets", "padding", "a character too many", "a character that base64 does not have")
    assert sum(name in str(refusal.value) for name in named) == 1


@pytest.mark.parametrize(
    "text", ["http://x/cat.png", " FILE:///etc/passwd", "data:image/png,abc", "data:image/svg+xml;utf8,<svg/>"]
)
def test_u20_addresses_and_data_without_base64_are_refused_by_name(text: str) -> None:
    with pytest.raises(UnsupportedImageType, match="base64"):
        decoded(text)


def test_u20_every_route_with_base64_takes_the_forms(client: TestClient, png: Callable[..., bytes]) -> None:
    image = png()
    assert client.put("/v1/collections/c").status_code == 201
    raw = client.post("/v1/embed", content=image, headers={"Content-Type": "image/png"}).json()["data"][0]["embedding"]
    for number, form in enumerate(FORMS):
        text = FORMS[form](image)
        embedded = client.post("/v1/embed", json={"images": [text]}).json()["data"][0]
        assert embedded["embedding"] == pytest.approx(raw, abs=1e-6), form
        assert client.post("/v1/embeddings", json={"input": text}).status_code == 200, form
        put = client.put("/v1/collections/c/points", json={"points": [{"id": str(number), "image": text}]})
        assert put.json()["result"][0]["status"] == "created", form
        query = client.post("/v1/collections/c/query", json={"image": text, "limit": 1})
        assert (query.status_code, len(query.json()["result"])) == (200, 1), form
