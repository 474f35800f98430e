"""Outputs that are no files are written through or refused before the work, and nothing is renamed over them or read back."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backbone.durable import make_directory, new_directory, refuse_non_empty, write_file
from backbone.errors import BackboneError, OutputNotEmpty, PathMissing, StorageFailed
from backbone.output import Output, held_open, open_stream, write_through

LONG = b"x" * 300_000  # more than a pipe holds


def write(path: Path, data: bytes = b"result") -> None:
    with Output(path) as output:
        output.write(data)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("folder", ["/dev/fd", "/proc/self/fd"])
def test_u10_a_descriptor_of_the_shell_is_written_through(pipe: tuple[int, int], folder: str, tmp_path: Path) -> None:
    reader, writer = pipe
    link = tmp_path / "out"
    link.symlink_to(f"{folder}/{writer}")  # as /dev/stdout is one
    for path in (Path(f"{folder}/{writer}"), link):
        write(path)
        assert os.read(reader, 100) == b"result"
    assert link.is_symlink()


def test_u10_standard_output_that_goes_to_a_file_keeps_what_else_is_said_there(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from backbone.output import Output\n"
    script += (
        "print('first', flush=True)\nwith Output(Path('/dev/stdout')) as out: out.write(b'result\\n')\nprint('last')"
    )
    with (tmp_path / "log").open("wb") as log:
        subprocess.run([sys.executable, "-c", script], stdout=log, check=True)
    assert (tmp_path / "log").read_text() == "first\nresult\nlast\n"


def test_u10_a_descriptor_that_is_open_for_reading_or_not_at_all_is_refused(pipe: tuple[int, int]) -> None:
    with pytest.raises(StorageFailed, match="open for reading"):
        Output(Path(f"/dev/fd/{pipe[0]}"))
    with pytest.raises(StorageFailed, match="Bad file descriptor"):
        Output(Path("/dev/fd/999"))


def test_u10_a_named_pipe_gets_all_of_it_and_stays_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(path.read_bytes)
        write(path, LONG)
        assert read.result(10) == LONG
    assert path.is_fifo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


def test_u10_a_named_pipe_waits_for_its_reader_and_sigterm_ends_that(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    script = f"from pathlib import Path; from backbone.output import Output; print('on', flush=True); Output(Path({str(path)!r}))"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == b"on\n"
        time.sleep(0.3)
        assert waiting.poll() is None
        waiting.terminate()
        assert waiting.wait(5) == -signal.SIGTERM
    late = threading.Timer(0.3, lambda: path.read_bytes())
    late.start()
    write(path)
    late.join()


def test_u10_a_pipe_without_a_reader_is_not_waited_for_by_who_is_told_to_stop(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    asked = iter([False, True])
    with pytest.raises(StorageFailed, match="nobody reads it"):
        open_stream(path, lambda: next(asked))


def test_u10_a_reader_that_takes_nothing_holds_nobody_who_is_told_to_stop(pipe: tuple[int, int]) -> None:
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(TimeoutError):
        write_through(pipe[1], LONG, stop.is_set)


def test_u10_a_reader_that_has_left_is_one_sentence(pipe: tuple[int, int]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(StorageFailed, match="Broken pipe"):
        write(Path(f"/dev/fd/{writer}"))
    os.close(writer)


def test_u10_a_terminal_is_written_through() -> None:
    ours, theirs = os.openpty()
    path = Path(os.ttyname(theirs))
    write(path, b"result\n")
    assert os.read(ours, 100) == b"result\r\n"
    assert path.is_char_device()
    os.close(theirs)
    os.close(ours)


def node(path: Path, mode: int, major: int, minor: int) -> None:
    try:
        os.mknod(path, mode | 0o600, os.makedev(major, minor))
        if stat.S_ISCHR(mode):
            os.close(os.open(path, os.O_WRONLY))
    except PermissionError:
        pytest.skip("this machine lets us make no devices")


def test_u10_a_device_stays_one(tmp_path: Path) -> None:
    node(tmp_path / "null", stat.S_IFCHR, 1, 3)
    write(tmp_path / "null")
    assert (tmp_path / "null").is_char_device()
    node(tmp_path / "full", stat.S_IFCHR, 1, 7)
    with pytest.raises(StorageFailed, match="No space left"):
        write(tmp_path / "full")
    assert (tmp_path / "full").is_char_device()
    with pytest.raises(StorageFailed, match="device"):
        write_file(tmp_path / "null", b"result")
    assert (tmp_path / "null").is_char_device()


def test_u10_a_disk_is_refused_and_not_written(tmp_path: Path) -> None:
    node(tmp_path / "disk", stat.S_IFBLK, 7, 200)
    with pytest.raises(StorageFailed, match="it is a disk"):
        Output(tmp_path / "disk")


def test_u10_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("old", "dangling"):
        target, link = tmp_path / "there" / name, tmp_path / f"{name}-link"
        link.symlink_to(Path("there") / name)
        (tmp_path / f"{name}-again").symlink_to(link)
        if name == "old":
            target.write_bytes(b"before")
        write(tmp_path / f"{name}-again")
        assert target.read_bytes() == b"result"
        write_file(link, b"more")
        assert target.read_bytes() == b"more"
        assert link.is_symlink()
    assert sorted(entry.name for entry in (tmp_path / "there").iterdir()) == ["dangling", "old"]


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.mkdir(), "it is a directory"),
        (loop, "Too many levels of symbolic links"),
        (unix_socket, "it is a socket"),
        (lambda path: path.symlink_to("nowhere/out"), "nowhere does not exist"),
    ],
)
def test_u10_what_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], why: str
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    make(Path("out"))
    with pytest.raises(BackboneError, match=why):
        Output(Path("out"))
    with pytest.raises(BackboneError, match=why), held_open(Path("out")):
        pass


@pytest.mark.parametrize("path", ["missing/out", "file/out"])
def test_u10_a_directory_that_is_none_is_refused_before_the_work(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    for opening in (Output, held_open):
        with pytest.raises((PathMissing, StorageFailed)), opening(tmp_path / path):  # type: ignore[attr-defined]
            pass


def test_u10_a_directory_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").write_text("")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(StorageFailed, match="cannot be written"):
        Output(tmp_path / "out")
    with pytest.raises(StorageFailed, match="Permission denied"), held_open(tmp_path / "old"):
        pass
    with pytest.raises(StorageFailed, match="cannot be written"):
        refuse_non_empty(tmp_path / "run" / "first")


def test_u10_a_file_that_is_mounted_by_itself_is_written_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").write_text("before")
    inode = (tmp_path / "out").stat().st_ino

    def busy(*_: object) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(Path, "replace", busy)
    write(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"result"
    assert (tmp_path / "out").stat().st_ino == inode
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("there", [True, False])
def test_u10_a_directory_appears_where_a_link_leads(tmp_path: Path, there: bool) -> None:
    target, link = tmp_path / "disk" / "run", tmp_path / "run"
    (tmp_path / "disk").mkdir()
    if there:
        target.mkdir()
    link.symlink_to(target)
    for replace in (False, True):
        with new_directory(link, replace=replace) as folder:
            (folder / "a").write_text(str(replace))
        assert (target / "a").read_text() == str(replace)
        assert link.is_symlink()
    assert [entry.name for entry in (tmp_path / "disk").iterdir()] == ["run"]


def test_u10_a_missing_directory_is_made_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to("disk/runs/first")
    make_directory(tmp_path / "run")
    assert (tmp_path / "disk" / "runs" / "first").is_dir()


def test_u10_a_directory_is_not_made_of_a_pipe_a_device_or_a_loop(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    loop(tmp_path / "loop")
    (tmp_path / "file").write_text("")
    for name, kind in (("pipe", OutputNotEmpty), ("loop", StorageFailed), ("file/run", StorageFailed)):
        with pytest.raises(kind):
            refuse_non_empty(tmp_path / name, replace=True)
        with pytest.raises(kind), new_directory(tmp_path / name, replace=True):
            pass
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("link", [None, os.symlink, os.link], ids=["itself", "symbolic link", "hard link"])
@pytest.mark.parametrize("held", [b"\x89PNG\r\n\x1a\n...", b"\xff\xd8\xff\xe0", b"SQLite format 3\x00"])
def test_u10_a_picture_or_a_database_is_no_output(
    held: bytes, link: Callable[[Path, Path], None] | None, tmp_path: Path
) -> None:
    path = tmp_path / "held"
    path.write_bytes(held)
    if link is not None:
        link(path, tmp_path / "link")
    for make in (Output, open_stream, lambda path: held_open(path).__enter__()):
        with pytest.raises(StorageFailed, match=r"it is a (picture|database)"):
            make(tmp_path / ("held" if link is None else "link"))
    assert path.read_bytes() == held


@pytest.mark.parametrize("held", [b"", b"{}", b"text"])
def test_u10_any_other_file_is_replaced(held: bytes, tmp_path: Path) -> None:
    (tmp_path / "held").write_bytes(held)
    write(tmp_path / "held")
    assert (tmp_path / "held").read_bytes() == b"result"
