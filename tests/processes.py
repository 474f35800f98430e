"""A service in a process of its own, as an operator starts it, and what the system says about it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dinodex.demo_service import start_service

MiB = 2**20


def memory_bytes(process: int, field: str) -> int:
    """Return what the system says of a process' memory: `VmRSS` now, `VmHWM` at most so far."""
    status = Path(f"/proc/{process}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field))


def cpu_s(process: int) -> float:
    """Return the seconds that a process has computed, without its children."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@dataclass
class ServiceProcess:
    """A running `dinodex serve`."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        """Return where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """End it, and all in its session, with SIGKILL; nothing where it has ended."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def lines(self) -> list[dict[str, Any]]:
        """Return what was logged; the line for a person that says where it serves is none of it."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if not line.startswith("serving on ")]

    def cpu_s(self) -> float:
        """Return the seconds that it has computed, without its children."""
        return cpu_s(self.process.pid)

    def family(self) -> list[int]:
        """Return its number and those of all that it started."""
        found, at = [self.process.pid], 0
        while at < len(found):
            tasks = Path(f"/proc/{found[at]}/task")
            children = [(task / "children").read_text() for task in tasks.glob("*")] if tasks.exists() else []
            found += [int(number) for text in children for number in text.split()]
            at += 1
        return found

    def resident_bytes(self) -> int:
        """Return the memory of the whole family, shared pages counted once."""
        total = 0
        for number in self.family():
            try:
                text = Path(f"/proc/{number}/smaps_rollup").read_text()
            except OSError:  # it has just ended
                continue
            total += sum(int(size) * 1024 for size in re.findall(r"^Pss: +(\d+) kB$", text, re.MULTILINE))
        return total


@contextmanager
def service_process(
    artifact: Path,
    data: Path,
    log: Path,
    inside: Sequence[str] = (),
    stop: Literal["term", "kill"] = "term",
    **settings: object,
) -> Iterator[ServiceProcess]:
    """Start a service on a free port with these settings and no others, and stop it in the end.

    Args:
        artifact: what it embeds with.
        data: its data directory.
        log: file that gets what it logs.
        inside: stands in front of its command, and becomes that.
        stop: `term`: with SIGTERM, after which it must end with 0, as it must where the block has ended it;
            `kill`: with SIGKILL, also to all that it started, where it still runs.
        settings: by name, as `threads=1`.
    """
    process, url = start_service(artifact, data, log, settings, inside=inside, own_session=stop == "kill")
    service = ServiceProcess(int(url.rpartition(":")[2]), process, log)
    try:
        yield service
    finally:
        if stop == "term":
            process.terminate()
            assert process.wait(60) == 0, log.read_text()[-2000:]
        else:
            service.kill()
