"""The service as a process of its own, on a free port of this machine: started, waited for, and stopped."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from backbone.interpreter import module_command, module_environment
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
    process, url = start_service(artifact, data, data.parent / "service.log", {"allow_anonymous": 1, **settings})
    try:
        with Client(url) as client:
            client.wait_until_ready(START_S)
            yield client
    finally:
        _stop(process)


def start_service(
    artifact: Path,
    data: Path,
    log: Path,
    settings: Mapping[str, object],
    *,
    inside: Sequence[str] = (),
    own_session: bool = False,
) -> tuple[subprocess.Popen[bytes], str]:
    """Start `dinodex serve` with these settings and no others; return the process and the URL that it listens on.

    Args:
        artifact: what it embeds with.
        data: its data directory.
        log: file that gets all that it says.
        settings: by name, as `threads`.
        inside: a command that becomes `dinodex serve`, which stands behind it.
        own_session: whether a signal to its group reaches the service and what it starts, and nobody else.

    Raises:
        ServiceUnreachable: it did not come up; its own words are in the message.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DINODEX_")}
    environment |= {f"DINODEX_{name.upper()}": str(value) for name, value in settings.items()}
    command = [*inside, *serve_command(artifact, data)]
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(  # noqa: S603
            command,
            env=module_environment(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=own_session,
        )
    try:
        return process, _wait_for_url(process, log)
    except BaseException:
        _stop(process)
        raise


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a service, which drains; one that is not through in its time is killed."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def serve_command(artifact: Path, data: Path, port: str = "0") -> list[str]:
    """Return the command that serves an artifact, for an environment of `module_environment`; port 0 is a free one."""
    given = ["--artifact", str(artifact), "--data", str(data), "--port", port]
    return module_command("dinodex", "serve", *given)


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
