"""A server under test, dinodex or a peer, as a process of its own on a free port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

START_S, STOP_S = 120.0, 20.0  # peers load large libraries; who has not ended by then is ended
_ENVIRONMENT = {"DINODEX_ALLOW_ANONYMOUS": "1", "DINODEX_LOG_LEVEL": "warning", "HF_HUB_OFFLINE": "1"}


@contextmanager
def server(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a command, in which `{port}` becomes a free port, until the block ends; yield the process and the port, which listens.

    Raises:
        RuntimeError: it did not come to listen.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    process = subprocess.Popen(
        [word.format(port=port) for word in command],
        env={**os.environ, **_ENVIRONMENT},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that a signal reaches the workers of a peer, too
    )
    try:
        _wait_until_it_listens(process, port)
        yield process, port
    finally:
        _end(process, signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            _end(process, signal.SIGKILL)
            process.wait()


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"{process.args!r} did not start; it ended with {process.poll()}")


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        os.killpg(process.pid, number)
