"""The service as a process of its own, on a free port of this machine, for as long as a block lasts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dinodex.client import Client
from dinodex.errors import ServiceUnreachable

START_S = 60.0  # torch and an artifact on a busy small machine
STOP_S = 30.0  # the service's own drain


@contextmanager
def running_service(artifact: Path, data: Path, **settings: str) -> Iterator[Client]:
    """Start `dinodex serve`, wait until it is ready, and stop it with SIGTERM in the end.

    Args:
        artifact: what it embeds with.
        data: its data directory.
        settings: further settings, as `threads="1"`.

    Raises:
        ServiceUnreachable: it did not come up; its own words are in the message.
    """
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("DINODEX_")},
        "DINODEX_ALLOW_ANONYMOUS": "1",
        **{f"DINODEX_{name.upper()}": value for name, value in settings.items()},
    }
    log = data.parent / "service.log"
    command = [
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
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603
    try:
        with Client(_wait_for_url(process, log)) as client:
            client.wait_until_ready(START_S)
            yield client
    finally:
        process.terminate()
        process.wait(STOP_S)


def _wait_for_url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        found = next((line for line in lines if line.startswith("serving on ")), None)
        if found is not None:
            return found.removeprefix("serving on ").strip()
        if process.poll() is not None:
            raise ServiceUnreachable(f"the service did not start: {lines[-1] if lines else 'it said nothing'}")
        time.sleep(0.05)
    raise ServiceUnreachable(f"the service did not start within {START_S:.0f} s; its log is {log}.")
