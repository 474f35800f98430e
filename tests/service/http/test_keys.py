"""Keys: made and revoked by the command line while a service runs."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.errors import InvalidName, KeyConflict, KeyMissing, KeysInvalid, SettingsInvalid
from service.http.keyring import ANONYMOUS
from service.http.keys import CONFIGURED, KEYS_NAME, add_key, read_keys, revoke_key

if TYPE_CHECKING:
    from starlette.testclient import TestClient


def status(client: TestClient, key: str) -> int:
    return client.get("/v1/model", headers={"Authorization": f"Bearer {key}"}).status_code


def test_a_key_is_kept_as_a_hash_that_its_owner_alone_can_read(tmp_path: Path) -> None:
    key, secret = add_key(tmp_path / "data", "website", "read")
    file = tmp_path / "data" / KEYS_NAME
    assert secret not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(secret) >= 43
    assert secret.startswith("dinodex_")
    assert read_keys(tmp_path / "data") == [key]
    assert add_key(tmp_path / "data", "other", "read")[1] != secret


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", "a\0", " a", "a\u202eb"])
def test_a_name_that_cannot_stand_in_a_log_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidName):
        add_key(tmp_path, name, "read")
    assert add_key(tmp_path, "x" * 64, "read")[0].name == "x" * 64


@pytest.mark.parametrize("name", [CONFIGURED, ANONYMOUS.name])
def test_a_name_of_the_service_s_own_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidName, match=name):
        add_key(tmp_path, name, "read")
    assert read_keys(tmp_path) == []


def test_a_name_is_used_once_and_is_free_when_it_is_revoked(tmp_path: Path) -> None:
    add_key(tmp_path, "a", "read")
    with pytest.raises(KeyConflict):
        add_key(tmp_path, "a", "write")
    revoke_key(tmp_path, "a")
    with pytest.raises(KeyMissing):
        revoke_key(tmp_path, "a")
    add_key(tmp_path, "a", "write")


def test_keys_that_are_added_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: add_key(tmp_path, f"key {n}", "read"), range(16)))
    assert len(read_keys(tmp_path)) == 16


def test_a_running_service_takes_up_what_is_added_and_revoked(
    make_client: Callable[..., TestClient], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    client = make_client(allow_anonymous=False, api_key="configured")
    _, first = add_key(data, "first", "write")
    assert status(client, first) == 200
    _, second = add_key(data, "second", "write")
    assert [status(client, key) for key in (first, second, "configured")] == [200] * 3, "they overlap"
    revoke_key(data, "first")
    assert [status(client, key) for key in (first, second, "configured")] == [401, 200, 200]
    (data / KEYS_NAME).unlink()
    assert [status(client, key) for key in (second, "configured")] == [401, 200]


def test_a_service_starts_with_a_key_of_the_file_alone_and_closes_with_the_last(
    make_client: Callable[..., TestClient], tmp_path: Path
) -> None:
    with pytest.raises(SettingsInvalid, match="dinodex keys add"):
        make_client(allow_anonymous=False)
    _, secret = add_key(tmp_path / "data", "only", "read")
    client = make_client(allow_anonymous=True, host="0.0.0.0")
    assert (status(client, secret), status(client, "other")) == (200, 401)
    revoke_key(tmp_path / "data", "only")
    assert status(client, secret) == 401
    assert client.get("/v1/model").status_code == 401, "it did not open for everybody"


def test_an_anonymous_service_closes_when_a_key_is_made(client: TestClient, tmp_path: Path) -> None:
    assert client.get("/v1/model").status_code == 200
    _, secret = add_key(tmp_path / "data", "first", "read")
    assert client.get("/v1/model").status_code == 401
    assert status(client, secret) == 200


def test_a_key_ends_at_its_time(
    make_client: Callable[..., TestClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(allow_anonymous=False, api_key="configured")
    key, secret = add_key(tmp_path / "data", "short", "read", expires_days=1)
    assert key.expires_at == pytest.approx(time.time() + 86_400, abs=60)
    assert status(client, secret) == 200
    assert key.expires_at is not None
    monkeypatch.setattr(time, "time", lambda: key.expires_at)
    assert status(client, secret) == 401


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"format": 2, "keys": []}',
        b'{"format": 1, "keys": [{"name": "a"}]}',
        b'{"format": 1, "keys": [{"name": "a", "scope": "all", "sha256": "%s", "created_at": 0}]}' % (b"0" * 64),
        b'{"format": 1, "keys": [{"name": "a", "scope": "read", "sha256": "00", "created_at": 0}]}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_keeps_a_service_from_starting_and_a_running_one_as_it_is(
    make_client: Callable[..., TestClient], tmp_path: Path, text: bytes
) -> None:
    data = tmp_path / "data"
    _, secret = add_key(data, "a", "read")
    client = make_client(allow_anonymous=False)
    sound = (data / KEYS_NAME).read_bytes()
    (data / KEYS_NAME).write_bytes(text)
    assert (status(client, secret), status(client, "x")) == (200, 401)
    with pytest.raises(KeysInvalid, match=KEYS_NAME):
        make_client(allow_anonymous=False)
    with pytest.raises(KeysInvalid):
        add_key(data, "b", "read")
    (data / KEYS_NAME).write_bytes(sound)
    assert status(client, secret) == 200


def test_who_asked_stands_in_the_log_by_name(
    make_client: Callable[..., TestClient], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from service.http.request_log import configure_logging

    configure_logging("info")
    _, secret = add_key(tmp_path / "data", "website", "read")
    client = make_client(allow_anonymous=False)
    status(client, secret)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    [line] = [line for line in lines if line.get("path") == "/v1/model"]
    assert line["key"] == "website"
    assert not any(secret in json.dumps(each) for each in lines)
