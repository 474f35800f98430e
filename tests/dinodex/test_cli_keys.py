"""`dinodex keys` as a person meets it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dinodex.cli import main
from service.http.keys import KEYS_NAME, digest_of, read_keys

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dinodex", "keys", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def test_a_key_is_printed_alone_and_once(run: Run, tmp_path: Path) -> None:
    code, printed, said = run("add", "website", "--data", tmp_path, "--scope", "write", "--expires-days", "30")
    assert code == 0
    assert said.startswith("website: write, until ")
    [key] = read_keys(tmp_path)
    assert digest_of(printed.strip().encode()) == key.sha256
    code, listed, _ = run("list", "--data", tmp_path)
    assert code == 0
    assert listed.startswith("website: write, made ")
    assert printed.strip() not in listed
    assert key.sha256 not in listed


def test_scripts_get_json(run: Run, tmp_path: Path) -> None:
    assert run("list", "--data", tmp_path, "--json")[:2] == (0, "[]\n")
    run("add", "a", "--data", tmp_path)
    [listed] = json.loads(run("list", "--data", tmp_path, "--json")[1])
    assert (listed["name"], listed["scope"], listed["expires_at"], listed["expired"]) == ("a", "read", None, False)
    assert "sha256" not in listed


def test_a_revoked_key_is_gone(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINODEX_DATA", str(tmp_path))
    run("add", "a")
    assert run("revoke", "a") == (0, "", "a: revoked\n")
    assert read_keys(tmp_path) == []


def test_each_mistake_has_its_exit_code(run: Run, tmp_path: Path) -> None:
    run("add", "a", "--data", tmp_path)
    for code, arguments in (
        (65, ("add", "a", "--data", tmp_path)),
        (65, ("add", "", "--data", tmp_path)),
        (65, ("revoke", "b", "--data", tmp_path)),
        (2, ("add", "b", "--data", tmp_path, "--scope", "all")),
        (2, ("add", "b", "--data", tmp_path, "--expires-days", "0")),
        (2, ("add", "b")),
    ):
        found, printed, said = run(*arguments)
        assert (found, printed) == (code, ""), arguments
        assert "Traceback" not in said
    (tmp_path / KEYS_NAME).write_text("{")
    for arguments in (("list",), ("add", "b"), ("revoke", "a")):
        assert run(*arguments, "--data", tmp_path)[0] == 65
    (tmp_path / "file").touch()
    assert run("add", "b", "--data", tmp_path / "file")[0] == 74
