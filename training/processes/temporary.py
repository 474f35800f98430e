"""A temporary directory whose path leaves room for a socket's name.

Loader processes hand their batches over by sockets in the temporary directory, and the address of a socket has some hundred bytes. A
TMPDIR deep in a job's or a test's folder is longer; libraries then fail in threads of their own, where nobody is told.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from multiprocessing import util
from pathlib import Path

from backbone.errors import StorageFailed

SOCKET_PATH_BYTES = 103  # of an AF_UNIX address without its zero byte: 107 on Linux, 103 on macOS and the BSDs
_NAMES = "/pymp-12345678/listener-12345678"  # what multiprocessing makes below the temporary directory
LONGEST = SOCKET_PATH_BYTES - len(_NAMES)
_ELSEWHERE = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - a directory of ours alone is made in one of them
_AFTER_SOCKETS = -200  # multiprocessing removes its own directory at priority -100


def ensure_short_directory(say: Callable[[str], None]) -> None:
    """Let this process and those that it starts use a temporary directory that is short enough; nothing where theirs is.

    Raises:
        StorageFailed: no directory can be written, or none that is short.
    """
    try:
        given = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise StorageFailed(
            "there is no temporary directory that can be written; set TMPDIR to one that can, with a short path."
        ) from error
    if len(os.fsencode(given)) <= LONGEST:
        return
    short = _made(given)
    util.Finalize(None, shutil.rmtree, (short,), {"ignore_errors": True}, exitpriority=_AFTER_SOCKETS)
    tempfile.tempdir = os.environ["TMPDIR"] = short
    say(f"the temporary directory {given} is too long for a socket; using {short} instead, until the run ends")


def _made(given: str) -> str:
    for parent in (*_ELSEWHERE, os.environ.get("XDG_RUNTIME_DIR", "")):
        if Path(parent).is_absolute() and len(os.fsencode(parent)) + len("/dinodex-12345678") <= LONGEST:
            try:
                return tempfile.mkdtemp(prefix="dinodex-", dir=parent)  # for this user alone: mode 0700
            except OSError:
                continue
    raise StorageFailed(
        f"the temporary directory {given} is too long for a socket, and none of {', '.join(_ELSEWHERE)} can be written; set TMPDIR to "
        f"a directory with a path of at most {LONGEST} bytes."
    )
