"""Keys as people's editors and shells write them: the mark of Windows, UTF-16, line breaks, what no header can carry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.errors import SettingsInvalid
from service.key_text import MAX_KEY_BYTES, header_key
from service.settings import load_settings

if TYPE_CHECKING:
    from starlette.testclient import TestClient

NEEDED = {"artifact": Path("artifact"), "data": Path("data")}
MARK = b"\xef\xbb\xbf"
TAKEN = {
    "plain": (b"secretkey", b"secretkey"),
    "Notepad's mark": (MARK + b"secretkey", b"secretkey"),
    "the mark and CRLF": (MARK + b"secretkey\r\n", b"secretkey"),
    "blanks around it": (b" \tsecretkey\n\n", b"secretkey"),
    "a blank inside": (b"secret key", b"secret key"),
    "UTF-8": ("schlüssel".encode(), "schlüssel".encode()),
    "Latin-1, which a header carries": (b"schl\xfcssel", b"schl\xfcssel"),
    "the longest": (b"k" * MAX_KEY_BYTES, b"k" * MAX_KEY_BYTES),
}
REFUSED = {
    "UTF-16, little end first": ("\ufeffsecretkey".encode("utf-16-le"), "UTF-16"),
    "UTF-16, big end first": ("\ufeffsecretkey".encode("utf-16-be"), "UTF-16"),
    "UTF-16 without a mark": ("secretkey".encode("utf-16-le"), "UTF-16"),
    "UTF-32": ("\ufeffsecretkey".encode("utf-32-be"), "UTF-16"),
    "NUL": (b"secret\0key", "NUL"),
    "two lines": (b"secret\nkey", "more than one line"),
    "two lines of an old Mac": (b"secret\rkey", "more than one line"),
    "a colour of a terminal": (b"\x1b[31msecretkey", "control character"),
    "DEL": (b"secret\x7fkey", "control character"),
    "a byte more": (b"k" * (MAX_KEY_BYTES + 1), "32 KiB"),
}


@pytest.mark.parametrize("case", TAKEN)
def test_u20_a_key_file_holds_the_key_and_what_editors_put_around_it_is_left_out(case: str, tmp_path: Path) -> None:
    content, key = TAKEN[case]
    (tmp_path / "key").write_bytes(content)
    assert load_settings(**NEEDED, api_key_file=tmp_path / "key").key() == key
    assert header_key(content) == key


@pytest.mark.parametrize("case", REFUSED)
def test_u20_a_key_that_no_header_can_carry_is_refused_at_the_start(case: str, tmp_path: Path) -> None:
    content, reason = REFUSED[case]
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(SettingsInvalid, match=reason) as refusal:
        load_settings(**NEEDED, api_key_file=tmp_path / "key").key()
    assert str(tmp_path / "key") in str(refusal.value)
    assert "secret" not in str(refusal.value).replace(str(tmp_path), "")


@pytest.mark.parametrize("content", [MARK, MARK + b"\r\n"])
def test_u20_a_file_with_nothing_but_the_mark_is_empty(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(SettingsInvalid, match="empty"):
        load_settings(**NEEDED, api_key_file=tmp_path / "key").key()


def test_u20_a_directory_and_a_device_are_no_key_files(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        load_settings(**NEEDED, api_key_file=tmp_path).key()
    with pytest.raises(SettingsInvalid, match="32 KiB"):
        load_settings(**NEEDED, api_key_file=Path("/dev/zero")).key()


def test_u20_the_variable_is_read_as_the_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(**NEEDED, api_key="\ufeffsecretkey\r\n").key() == b"secretkey"
    with pytest.raises(SettingsInvalid, match="DINODEX_API_KEY has more than one line"):
        load_settings(**NEEDED, api_key="secret\nkey").key()


def test_u20_who_presents_the_key_without_the_mark_is_let_in(
    make_client: Callable[..., TestClient], tmp_path: Path
) -> None:
    (tmp_path / "key").write_bytes(MARK + b"secretkey\r\n")
    client = make_client(allow_anonymous=False, api_key_file=tmp_path / "key")
    assert client.get("/v1/model", headers={"X-API-Key": "secretkey"}).status_code == 200
    assert client.get("/v1/model", headers={"X-API-Key": "another"}).status_code == 401
