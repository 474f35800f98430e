"""Child processes for long work: at a low priority, watched, and gone when the service is.

In processes of their own, because such work takes every core for minutes, cannot be interrupted, or holds the interpreter lock for
seconds at a time. Stopping it means ending the child, and what it does to its memory is nobody else's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from tempfile import TemporaryFile
from typing import IO

# A tenth of what a search gets where both want a core: at 19, or idle only, a busy service would never be done.
NICENESS = 10
POLL_S = 0.1  # seconds between two looks at whether to stop
STDERR_BYTES = 500  # of the end of what it wrote: the last line of a traceback
_PR_SET_PDEATHSIG = 1


class ChildFailed(Exception):
    """The child ended badly; the message says how."""


def run_child(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    check: Callable[[], None],
    stdin: IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
) -> None:
    """Run `COMMAND PARENT` to its end; it calls `give_way(PARENT)` first, and errors call it `name`.

    `check` is called ten times a second and may raise to stop the child. Raises ChildFailed.
    """
    with TemporaryFile() as stderr:  # a pipe would have to be attended to
        child = subprocess.Popen(  # noqa: S603 - our own words
            [*command, str(os.getpid())],
            stdin=stdin or subprocess.DEVNULL,
            stdout=stdout or stderr,
            stderr=stderr,
            env=environment,
        )
        try:
            while child.poll() is None:
                check()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(POLL_S)
        finally:
            child.kill()
            child.wait()
        if child.returncode != 0:
            stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - STDERR_BYTES))
            lines = stderr.read().decode(errors="replace").strip().splitlines()
            raise ChildFailed(f"{name} ended with {child.returncode}: {lines[-1] if lines else 'no word'}")


def give_way(parent: int) -> None:
    """Take a low priority, and end with the parent. For the child, before anything else."""
    os.nice(NICENESS)
    end_with(parent)


def end_with(parent: int) -> None:
    """Let this process end when its parent does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before we could ask
            sys.exit("the parent is gone")
