"""`dinodex keys` as a person meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Run

from service.http.keys import KEYS_NAME, digest_of, read_keys


@pytest.fixture
def keys(run: Run) -> Run:
    """Run `dinodex keys` in this process."""
    return lambda *arguments: run("keys", *arguments)


def test_a_key_is_printed_alone_and_once(keys: Run, tmp_path: Path) -> None:
    code, printed, said = keys("add", "website", "--data", tmp_path, "--scope", "write", "--expires-days", "30")
    assert code == 0
    assert said.startswith("website: write, until ")
    [key] = read_keys(tmp_path)
    assert digest_of(printed.strip().encode()) == key.sha256
    code, listed, _ = keys("list", "--data", tmp_path)
    assert code == 0
    assert listed.startswith("website: write, made ")
    assert printed.strip() not in listed
    assert key.sha256 not in listed


def test_scripts_get_json(keys: Run, tmp_path: Path) -> None:
    assert keys("list", "--data", tmp_path, "--json")[:2] == (0, "[]\n")
    keys("add", "a", "--data", tmp_path)
    [listed] = json.loads(keys("list", "--data", tmp_path, "--json")[1])
    assert (listed["name"], listed["scope"], listed["expires_at"], listed["expired"]) == ("a", "read", None, False)
    assert "sha256" not in listed


def test_a_revoked_key_is_gone(keys: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINODEX_DATA", str(tmp_path))
    keys("add", "a")
    assert keys("revoke", "a") == (0, "", "a: revoked\n")
    assert read_keys(tmp_path) == []


def test_each_mistake_has_its_exit_code(keys: Run, tmp_path: Path) -> None:
    keys("add", "a", "--data", tmp_path)
    for code, arguments in (
        (65, ("add", "a", "--data", tmp_path)),
        (65, ("add", "", "--data", tmp_path)),
        (65, ("revoke", "b", "--data", tmp_path)),
        (2, ("add", "b", "--data", tmp_path, "--scope", "all")),
        (2, ("add", "b", "--data", tmp_path, "--expires-days", "0")),
        (2, ("add", "b")),
    ):
        found, printed, said = keys(*arguments)
        assert (found, printed) == (code, ""), arguments
        assert "Traceback" not in said
    (tmp_path / KEYS_NAME).write_text("{")
    for arguments in (("list",), ("add", "b"), ("revoke", "a")):
        assert keys(*arguments, "--data", tmp_path)[0] == 65
    (tmp_path / "file").touch()
    assert keys("add", "b", "--data", tmp_path / "file")[0] == 74
