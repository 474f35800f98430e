from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backbone.durable import lock_directory, new_directory, read_file, write_file
from backbone.errors import DirectoryLocked, OutputNotEmpty, PathMissing, StorageFailed


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_written_file_holds_its_bytes_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"one")
    write_file(tmp_path / "a", b"two")
    assert read_file(tmp_path / "a") == b"two"
    assert names(tmp_path) == ["a"]


def test_a_failed_write_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "a", b"one")

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageFailed, match="No space left"):
        write_file(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert names(tmp_path) == ["a"]


def test_every_written_byte_is_flushed_before_the_name_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        calls.append("fsync")
        real_fsync(descriptor)

    def note_replace(self: Path, target: Path) -> Path:
        calls.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_file(tmp_path / "a", b"one")
    assert calls == ["fsync", "rename", "fsync"]


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail_halfway() -> None:
        with new_directory(tmp_path / "out") as folder:
            (folder / "first").write_text("1")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail_halfway()
    assert names(tmp_path) == []
    with new_directory(tmp_path / "out") as folder:
        (folder / "first").write_text("1")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "first").read_text() == "1"


def test_a_directory_that_holds_something_is_refused_and_an_empty_one_is_taken(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OutputNotEmpty, match="not empty"), new_directory(tmp_path / "full"):
        pass
    assert (tmp_path / "full" / "precious").read_text() == "x"
    with new_directory(tmp_path / "empty") as folder:
        (folder / "a").write_text("a")
    assert (tmp_path / "empty" / "a").read_text() == "a"


def test_replacing_a_directory_leaves_only_the_new_one(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with new_directory(tmp_path / "out", replace=True) as folder:
            (folder / "a").write_text(text)
    assert (tmp_path / "out" / "a").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(PathMissing, match="does not exist"):
        read_file(tmp_path / "none")


def test_two_holders_of_one_directory_are_one_too_many(tmp_path: Path) -> None:
    with lock_directory(tmp_path / "data"), pytest.raises(DirectoryLocked, match="another dinodex process"):
        lock_directory(tmp_path / "data")
    lock_directory(tmp_path / "data").release()


def test_the_lock_of_a_killed_process_is_free_again(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from backbone.durable import lock_directory\n"
        "lock = lock_directory(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(DirectoryLocked):
            lock_directory(tmp_path)
        child.kill()
        child.wait()
    lock_directory(tmp_path).release()
