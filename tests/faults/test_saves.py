"""T02, T03 and T04 at every system call of a save: killed, refused, full."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults.figures import FIGURES

from backbone.durable import remove_leftovers
from training.checkpoints import checkpoint_files, newest_valid, read_checkpoint

# The calls that touch a file. Only those on the files of the save are counted (`strace -P`); the interpreter makes many others.
CALLS = "openat,write,fsync,rename,unlink,close,read,lseek,newfstatat,fstat,mkdir,getdents64,ioctl"
TEMPORARY = ".step-00000008.ckpt.000000000000.tmp"
FILES = ("", TEMPORARY, "step-00000008.ckpt", "step-00000007.ckpt", "step-00000006.ckpt")
SAVE = """
import sys, uuid
from pathlib import Path
import torch
from training.checkpoints import Checkpoint, write_checkpoint
from backbone.errors import StorageFailed

uuid.uuid4 = lambda: uuid.UUID(int=0)  # temporary names that strace can be told
folder, step = Path(sys.argv[1]), int(sys.argv[2])
checkpoint = Checkpoint(step, 1.5, 0, 1, {}, {}, {"centre": torch.arange(300_000.0)}, {}, {}, {}, "", 20, "ab", {})
try:
    write_checkpoint(folder, checkpoint, keep=2)
except StorageFailed as error:
    print(error)
    sys.exit(74)
"""
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def save(folder: Path, step: int, *before: str) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-c", SAVE, str(folder), str(step)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the checkpoints of steps 6 and 7."""
    for step in (6, 7):
        assert save(tmp_path / "checkpoints", step).returncode == 0
    return tmp_path / "checkpoints"


def traced(folder: Path, trace: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Save step 8 under strace."""
    paths = [part for name in FILES for part in ("-P", str(folder / name) if name else str(folder))]
    return save(folder, 8, "strace", "-f", "-qq", *paths, *options, "-o", str(trace))


def calls_of_a_save(folder: Path, trace: Path) -> list[str]:
    """The system calls that a save makes on its files, in order: `fsync:2` is the second fsync."""
    assert traced(folder, trace, "-e", f"trace={CALLS}").returncode == 0
    names = [found[1] for line in trace.read_text().splitlines() if (found := re.match(r"\d+\s+(\w+)\(", line))]
    back_to_the_beginning(folder)
    return [f"{name}:{names[: number + 1].count(name)}" for number, name in enumerate(names)]


def back_to_the_beginning(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    for name, data in ORIGINALS.items():
        (folder / name).write_bytes(data)


ORIGINALS: dict[str, bytes] = {}


def assert_sound(folder: Path) -> int:
    """Nothing is torn, two can be gone on from, and a start leaves nothing of the save behind; return the newest step."""
    for path in checkpoint_files(folder):
        read_checkpoint(path)
    assert len(checkpoint_files(folder)) >= 2
    remove_leftovers(folder)
    assert len(checkpoint_files(folder)) == len(list(folder.iterdir()))
    return newest_valid(folder).step


@needs_strace
def test_t02_a_save_killed_at_any_system_call_leaves_a_valid_checkpoint(folder: Path, tmp_path: Path) -> None:
    ORIGINALS.update({path.name: path.read_bytes() for path in folder.iterdir()})
    calls = calls_of_a_save(folder, tmp_path / "trace")
    found: dict[int, int] = {}
    killed = 0
    for call in calls:
        name, _, when = call.partition(":")
        inject = f"inject={name}:signal=SIGKILL:when={when}"
        done = traced(folder, tmp_path / "trace", "-e", f"trace={name}", "-e", inject)
        killed += done.returncode == -9
        newest = assert_sound(folder)
        found[newest] = found.get(newest, 0) + 1
        assert set(found) <= {7, 8}
        back_to_the_beginning(folder)
    assert killed == len(calls)
    assert set(found) == {7, 8}
    FIGURES.append(f"T02 {killed} of {len(calls)} system calls of a save killed: newest checkpoint {found}, none torn")


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_t03_t04_a_save_whose_flush_or_write_fails_is_not_published(folder: Path, tmp_path: Path, error: str) -> None:
    ORIGINALS.update({path.name: path.read_bytes() for path in folder.iterdir()})
    calls = [
        call
        for call in calls_of_a_save(folder, tmp_path / "trace")
        if call.partition(":")[0] in ("write", "fsync", "rename")
    ]
    fsyncs = [call for call in calls if call.startswith("fsync")]
    assert len(fsyncs) == 3
    refused = 0
    for call in calls:
        name, _, when = call.partition(":")
        inject = f"inject={name}:error={error}:when={when}"
        done = traced(folder, tmp_path / "trace", "-e", f"trace={name}", "-e", inject)
        newest = assert_sound(folder)
        if call == fsyncs[-1]:
            assert newest == 8, "it was published durably before; only the removal of old ones was not flushed"
        elif done.returncode == 74:
            assert newest == 7, call
        refused += done.returncode == 74
        back_to_the_beginning(folder)
    assert refused == len(calls)
    FIGURES.append(
        f"T03/T04 {error} at each of {len(calls)} writes, flushes and renames of a save: {refused} refused, none published"
    )


def test_t03_a_save_on_a_full_disk_keeps_the_earlier_ones_and_works_again_when_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
    try:
        folder = disk / "checkpoints"
        assert [save(folder, step).returncode for step in (6, 7)] == [0, 0]
        refused = 0
        for left_kib in (0, 4, 64, 512, 1024, 1168):  # a checkpoint has 1,175 KiB
            filler = disk / "filler"
            with filler.open("wb") as file:
                free = shutil.disk_usage(disk).free - left_kib * 1024
                file.write(bytes(max(free, 0)))
            done = save(folder, 8)
            assert done.returncode == 74, f"{left_kib} KiB were left"
            assert "No space left on device" in done.stdout
            refused += 1
            filler.unlink()
            assert assert_sound(folder) == 7
            assert [path.name for path in checkpoint_files(folder)] == ["step-00000007.ckpt", "step-00000006.ckpt"]
        assert save(folder, 8).returncode == 0
        assert assert_sound(folder) == 8
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    FIGURES.append(f"T03 {refused} saves on a disk with 0 to 1,168 KiB left: all refused, earlier checkpoints whole")
