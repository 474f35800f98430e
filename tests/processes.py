"""A service in a process of its own, as an operator starts it, and what the system says about it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    artifact: Path, data: Path, log: Path, inside: Sequence[str] = (), **settings: object
) -> Iterator[ServiceProcess]:
    """Start a service on a free port with these settings and no others, and stop it with SIGTERM.

    `inside` stands in front of its command, and becomes that.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DINODEX_")}
    environment |= {f"DINODEX_{name.upper()}": str(value) for name, value in settings.items()}
    command = [
        *inside,
        sys.executable,
        "-m",
        "dinodex",
        "serve",
        "--artifact",
        str(artifact),
        "--data",
        str(data),
        "--port",
        "0",
    ]
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=file)
    try:
        while not (found := re.search(r"^serving on http://127.0.0.1:(\d+)$", log.read_text(), re.MULTILINE)):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield ServiceProcess(int(found[1]), process, log)
    finally:
        process.terminate()
        assert process.wait(60) == 0, log.read_text()[-2000:]
