"""S48: the power goes after any system call of a session, and what was not flushed is lost, kept or torn."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from random import Random

from faults.library.disk_log import STRACE, Call, Disk, read_log, restore
from faults.library.history import check, opened
from faults.library.kills import ENVIRONMENT, PYTHON
from faults.library.small import small

from service.library.library import Library

KEPT = (0.0, 1.0, 0.5, 0.9)  # of what was not flushed: nothing, all, half, most


@dataclass
class Powerless:
    """The trials so far."""

    calls: int = 0
    disks: int = 0
    acknowledged: int = 0

    def __str__(self) -> str:
        return (
            f"{self.disks} disks as the power may leave them, after each of {self.calls} file system calls of a session with"
            f" {self.acknowledged} acknowledged writes, un-synced data dropped, kept or torn: all opened, 0 lost, 0 half, 0 phantom"
        )


def session_log(root: Path, log: Path, writes: int) -> list[Call]:
    """Run a session on `root`/data under strace."""
    root.mkdir()
    done = subprocess.run(
        [*STRACE, "-o", str(log), *PYTHON, "session", str(root / "data"), str(writes)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return read_log(log)


def lose_power(folder: Path, writes: int, seed: int, share: float = 1.0) -> Powerless:
    """Open and verify what is left after each call of a session; of all disks only a `share`, drawn from the seed."""
    draw, found, root = Random(seed), Powerless(), folder / "root"
    calls = session_log(root, folder / "log", writes)
    disk = Disk(str(root))
    for call in calls:
        if call.name == "say":
            found.acknowledged += call.data.startswith(b"0 ")
            continue
        disk.apply(call)
        if not call.path.startswith(str(root)):
            continue
        found.calls += 1
        for kept in KEPT:
            if draw.random() < share:
                found.disks += 1
                verify(disk, draw, kept, folder / "crashed", found.acknowledged, seed)
    assert found.acknowledged == writes
    return found


def verify(disk: Disk, draw: Random, kept: float, folder: Path, acknowledged: int, seed: int) -> None:
    folder.mkdir()
    restore(disk.crashed(draw, kept), disk.root, folder)
    with small(), Library.open(folder / "data", threads=1) as library:
        check(opened(library), [acknowledged], f"{seed}, {kept} of what was not flushed is kept")
    shutil.rmtree(folder)
