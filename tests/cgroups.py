"""A limit of memory that the kernel enforces: a control group, of either version, for a process and all that it starts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class NoMemoryGroup(Exception):
    """There can be none here; says why."""


@dataclass(frozen=True)
class Files:
    """Where a version of control groups keeps what."""

    most: str
    no_swap: dict[str, str]  # what is written where; {} stands for the limit
    peak: str
    cache: str  # in memory.stat
    kills: str


VERSIONS = {
    "cgroup": Files(
        most="memory.limit_in_bytes",
        no_swap={"memory.memsw.limit_in_bytes": "{}", "memory.swappiness": "0"},
        peak="memory.max_usage_in_bytes",
        cache="total_cache",
        kills="memory.oom_control",
    ),
    "cgroup2": Files(
        most="memory.max",
        no_swap={"memory.swap.max": "0"},
        peak="memory.peak",
        cache="file",
        kills="memory.events",
    ),
}


@dataclass
class MemoryGroup:
    """A control group. Page cache that it was the first to read counts as its memory; the kernel takes that back before it kills."""

    path: Path
    files: Files

    @property
    def command(self) -> list[str]:
        """Return what stands in front of a command that is to run in it, from its first page on."""
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.path)]

    def limit(self, most: int) -> None:
        """Let it have so many bytes, and no swap."""
        for name, value in {self.files.most: "{}", **self.files.no_swap}.items():
            if (self.path / name).exists():
                (self.path / name).write_text(value.format(most))

    def peak_bytes(self) -> int:
        """Return the most that it had, page cache and the kernel's own share included."""
        return int((self.path / self.files.peak).read_text())

    def cache_bytes(self) -> int:
        """Return how much of what it has is page cache."""
        return self._count("memory.stat", self.files.cache)

    def kills(self) -> int:
        """Return how many of its processes were killed for lack of memory."""
        return self._count(self.files.kills, "oom_kill")

    def _count(self, file: str, name: str) -> int:
        found = re.search(rf"(?m)^{name} (\d+)$", (self.path / file).read_text())
        assert found is not None
        return int(found[1])


@contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """Make a group, and remove it in the end, when its processes have ended.

    Raises:
        NoMemoryGroup: the system has none, or lets nobody make one.
    """
    group = _made(f"dinodex-test-{os.getpid()}")
    try:
        yield group
    finally:
        group.path.rmdir()


def _made(name: str) -> MemoryGroup:
    reasons = []
    for parent, files in _parents():
        path = parent / name
        try:
            path.mkdir()
        except OSError as error:
            reasons.append(f"{parent}: {error.strerror}")
            continue
        if (path / files.most).exists():
            return MemoryGroup(path, files)
        path.rmdir()
        reasons.append(f"{parent}: its groups have no {files.most}")
    raise NoMemoryGroup("; ".join(reasons) or "no control groups are mounted")


def _parents() -> Iterator[tuple[Path, Files]]:
    """Yield where a group might be made: below our own, or in version 2, where one with processes limits none below, beside it."""
    groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        (_, _, _, root, folder, *_), (kind, _, options) = mount.split(), source.split()
        if kind not in VERSIONS or (kind == "cgroup" and "memory" not in options.split(",")):
            continue
        for _, controllers, own in groups:
            if ("memory" if kind == "cgroup" else "") in controllers.split(","):
                below = Path(folder) / os.path.relpath(own, root)
                if kind == "cgroup2" and below != Path(folder):
                    below = below.parent
                yield below, VERSIONS[kind]
