"""`dinodex backup` and `restore` as a person meets them: what is printed, and one sentence and an exit code for each mistake."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from commands import Run, is_one_sentence

from service.library.library import Library
from service.points import NewPoint, hash_vector


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with Library.open(tmp_path / "data") as library:
        collection = library.create("photos", "f", 2)[0]
        collection.put([NewPoint(str(i), hash_vector([1, i]), [1, i], "cat", {"n": i}) for i in range(1200)])
    return tmp_path / "data"


def test_a_backup_is_taken_from_a_library_in_use_and_restored_elsewhere(run: Run, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    with Library.open(data):
        code, printed, _ = run("backup", "--data", data, "--out", out)
    assert code == 0
    assert "photos: 1,200 points" in printed
    assert hashlib.sha256(out.read_bytes()).hexdigest() in printed
    code, restored, _ = run("restore", out, "--data", tmp_path / "new")
    assert (code, restored) == (0, printed)
    with Library.open(tmp_path / "new") as library:
        assert library.collection("photos").count() == 1200


@pytest.mark.parametrize("kind", ["pipe", "descriptor", "loop"])
def test_u10_a_backup_replaces_no_pipe_and_no_device(run: Run, data: Path, tmp_path: Path, kind: str) -> None:
    path, ends = tmp_path / kind, os.pipe()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(f"/dev/fd/{ends[1]}" if kind == "descriptor" else kind)
    before = path.lstat().st_ino
    code, out, err = run("backup", "--data", data, "--out", path, "--force")
    assert (code, out) == (74, "")
    assert is_one_sentence(err)
    assert path.lstat().st_ino == before
    for end in ends:
        os.close(end)


def test_u10_a_backup_and_a_library_are_replaced_where_a_link_leads(run: Run, data: Path, tmp_path: Path) -> None:
    disk, link = tmp_path / "disk", tmp_path / "link"
    disk.mkdir()
    link.symlink_to(disk / "copy")
    for force in ((), ("--force",)):
        assert run("backup", "--data", data, "--out", link, *force)[0] == 0
        assert link.is_symlink()
    library = data / "library.sqlite3"
    library.rename(disk / "library")
    library.symlink_to(disk / "library")
    assert run("restore", link, "--data", data, "--replace")[0] == 0
    assert library.is_symlink()
    assert sorted(path.name for path in disk.iterdir()) == ["copy", "library"]
    with Library.open(data) as opened:
        assert opened.collection("photos").count() == 1200


def test_each_mistake_has_its_exit_code_and_the_next_good_command_works(run: Run, data: Path, tmp_path: Path) -> None:
    out, bad = tmp_path / "copy", tmp_path / "bad"
    assert run("backup", "--data", data, "--out", out)[0] == 0
    bad.write_bytes(out.read_bytes()[:-5000])
    for expected, *command in (
        (74, "backup", "--data", tmp_path / "absent", "--out", tmp_path / "x"),
        (74, "backup", "--data", data, "--out", out),
        (74, "backup", "--data", data, "--out", data / "library.sqlite3", "--force"),
        (74, "restore", tmp_path / "absent", "--data", data, "--replace"),
        (74, "restore", out, "--data", data),
        (65, "restore", bad, "--data", data, "--replace"),
    ):
        code, printed, said = run(*command)
        assert code == expected
        assert printed == ""
        assert is_one_sentence(said)
    with Library.open(data):
        code, _, said = run("restore", out, "--data", data, "--replace")
    assert code == 75
    assert is_one_sentence(said)
    assert run("backup", "--data", data)[0] == 2
    assert run("restore", out, "--data", data, "--replace")[0] == 0
    assert run("backup", "--data", data, "--out", out, "--force")[0] == 0


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_help_has_an_example(run: Run, command: str) -> None:
    code, printed, _ = run(command, "--help")
    assert code == 0
    assert f"Example: dinodex {command}" in printed
