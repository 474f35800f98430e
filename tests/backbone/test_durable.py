from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from backbone.durable import LOCK_PATIENCE_S, lock_directory, new_directory, read_file, remove_leftovers, write_file
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


def test_the_lock_is_not_shared_with_a_forked_child_that_outlives_its_parent(tmp_path: Path) -> None:
    """Workers that load images live some seconds longer than a killed trainer; its successor must not wait for them."""
    script = (
        "import os, sys, time; from pathlib import Path; from backbone.durable import lock_directory\n"
        "lock = lock_directory(Path(sys.argv[1])); child = os.fork()\n"
        "if not child: time.sleep(60); os._exit(0)\n"
        "print(child, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
        try:
            with pytest.raises(DirectoryLocked):  # the child has let go of its copy, the parent still holds
                lock_directory(tmp_path)
            parent.kill()
            parent.wait()
            os.kill(child, 0)
            lock_directory(tmp_path).release()
        finally:
            os.kill(child, signal.SIGKILL)


def test_parts_are_written_one_after_the_other(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"one ", memoryview(b"two "), b"", b"three", verify=True)
    assert (tmp_path / "a").read_bytes() == b"one two three"
    write_file(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b""


def changed(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("spoil", [changed, shortened])
def test_bytes_that_the_disk_gives_back_otherwise_are_not_given_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    write_file(tmp_path / "a", b"one")
    flush = os.fsync

    def lying(descriptor: int) -> None:
        flush(descriptor)
        for path in tmp_path.glob(".*.tmp"):
            spoil(path)

    monkeypatch.setattr(os, "fsync", lying)
    with pytest.raises(StorageFailed, match="gave other bytes back"):
        write_file(tmp_path / "a", b"two", b"three", verify=True)
    assert (tmp_path / "a").read_bytes() == b"one"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("number", [1, 2])
def test_a_flush_that_fails_is_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The first flush is of the bytes: nothing has changed. The second is of the name: the new bytes are there, and whole."""
    write_file(tmp_path / "a", b"one")
    flush, calls = os.fsync, [0]

    def failing(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] == number:
            raise OSError(errno.EIO, "Input/output error")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageFailed, match="Input/output error"):
        write_file(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == (b"one" if number == 1 else b"two")
    assert names(tmp_path) == ["a"]


def test_leftovers_of_killed_writes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    leftover = ".step-00000001.ckpt.0123456789ab.tmp"
    (tmp_path / leftover).write_bytes(b"torn")
    (tmp_path / ".artifact.ba9876543210.tmp").mkdir()
    (tmp_path / ".artifact.ba9876543210.tmp" / "weights").write_bytes(b"torn")
    kept = [
        ".dinodex.lock",
        ".notes.tmp",
        "a.0123456789ab.tmp",
        ".x.0123456789AB.tmp",
        ".x.0123.tmp",
        ".x.0123456789ab.tmp~",
    ]
    for name in kept:
        (tmp_path / name).write_bytes(b"kept")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / leftover).write_bytes(b"of a deeper folder")
    (tmp_path / ".link.0123456789ab.tmp").symlink_to(tmp_path / "precious")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted([*kept, "precious"])
    assert names(tmp_path / "precious") == [leftover]
    remove_leftovers(tmp_path / "absent")


def test_leftovers_that_cannot_be_removed_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".a.0123456789ab.tmp").write_bytes(b"torn")

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StorageFailed, match="Read-only file system"):
        remove_leftovers(tmp_path)


def test_s44_a_lock_that_a_dying_holder_s_child_has_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    held = lock_directory(tmp_path)
    threading.Timer(LOCK_PATIENCE_S / 3, held.release).start()
    lock_directory(tmp_path).release()
