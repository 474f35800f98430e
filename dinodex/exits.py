"""The exit codes of errors, in one place, and the sentence for what other people's software raises.

2 usage, 65 bad data, 70 a mistake of dinodex itself, 74 input or output, 75 locked, 78 configuration, 130 interrupted, 141 nobody reads
the output, 143 SIGTERM.

The numbers are those of BSD's sysexits.h, and of a shell for signals, so that a shell script or a scheduler can tell "try again" from
"give up".
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable
from typing import Any, NamedTuple

from backbone import errors as backbone
from dinodex import errors as client
from service import errors as service
from training import errors as training

USAGE, BAD_DATA, INTERNAL, IO, LOCKED, CONFIG = 2, 65, 70, 74, 75, 78
INTERRUPTED, OUTPUT_CLOSED, TERMINATED = 130, 141, 143  # 128 and the number of SIGINT, SIGPIPE and SIGTERM

# The first class that fits decides; a root at the end of its block catches what is left of its tree.
_TABLE: tuple[tuple[type[Exception], int], ...] = (
    (backbone.PathMissing, IO),
    (backbone.StorageFailed, IO),
    (backbone.OutputNotEmpty, IO),
    (backbone.DirectoryLocked, LOCKED),
    (backbone.NotInstalled, CONFIG),
    (backbone.ArchitectureInvalid, CONFIG),
    (backbone.BackboneError, BAD_DATA),
    (training.ConfigInvalid, CONFIG),
    (training.LoadingStopped, TERMINATED),
    (training.LoadingFailed, IO),
    (training.CannotMeet, IO),
    (training.PeerLost, IO),
    (training.TrainingError, BAD_DATA),
    (service.SettingsInvalid, CONFIG),
    (service.CannotStart, IO),  # the port is in use
    (service.Storage, IO),
    (service.ServiceError, BAD_DATA),
    (client.FileUnreadable, IO),
    (client.ServiceUnreachable, IO),
    (client.Unavailable, IO),
    (client.NotAllowed, CONFIG),
    (client.KeyInvalid, CONFIG),
    (client.ClientError, BAD_DATA),
)

EXPECTED = (backbone.BackboneError, training.TrainingError, service.ServiceError, client.ClientError)


class Verdict(NamedTuple):
    """What a command that failed says, and the exit code that it ends with."""

    sentence: str
    code: int


def exit_code(error: Exception) -> int:
    """Return the exit code for an error of one of dinodex's trees."""
    return next(code for kind, code in _TABLE if isinstance(error, kind))


def verdict(error: BaseException) -> Verdict:
    """Return the sentence and the exit code for whatever reached the top of a command."""
    while isinstance(error, BaseExceptionGroup):  # task groups raise what one of their tasks raised
        error = error.exceptions[0]
    if isinstance(error, EXPECTED):
        return Verdict(str(error), exit_code(error))
    for kind in type(error).__mro__:
        if (known := _FOREIGN.get(f"{kind.__module__}.{kind.__qualname__}")) is not None:
            return known(error)
    return Verdict(
        f"this is a mistake in dinodex, {_brief(error)}; run it again as `dinodex --debug ...` and report the trace.",
        INTERNAL,
    )


# Modules that only a part of the commands needs: the extra that brings them.
_EXTRAS = {
    "torch": "train",
    "torchvision": "train",
    "lightning": "train",
    "fastapi": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "faiss": "serve",
    "structlog": "serve",
    "pydantic_settings": "serve",
    "sklearn": "train",
}


def _not_installed(error: Any) -> Verdict:  # noqa: ANN401
    if (extra := _EXTRAS.get((error.name or "").partition(".")[0])) is not None:
        return Verdict(f"{error.name} is needed for this; run: pip install 'dinodex[{extra}]'.", CONFIG)
    return Verdict(f"the installation is not whole, {_brief(error)}; install dinodex and its packages anew.", CONFIG)


_HINTS = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room within the quota",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENOMEM: "free memory",
}


def _system(error: Any) -> Verdict:  # noqa: ANN401
    what = f"{error.filename}: " if error.filename is not None else ""
    hint = _HINTS.get(error.errno, "check the path, the permissions and the disk")
    return Verdict(f"the system refused, {what}{error.strerror or _brief(error)}; {hint}.", IO)


def _connection(error: Any) -> Verdict:  # noqa: ANN401
    return Verdict(f"a connection ended, {_brief(error)}; run the command again.", IO)


def _memory(error: Any) -> Verdict:  # noqa: ANN401
    return Verdict("memory ran out; free some, or take a smaller batch_size, fewer workers or smaller images.", IO)


def _database(error: sqlite3.Error) -> Verdict:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Verdict("the library's database is in use by another process; stop that one first.", LOCKED)
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return Verdict(f"the library's database is damaged ({error}); restore a backup of it.", BAD_DATA)
    return Verdict(f"the library's database cannot be used ({error}); check the disk and the permissions.", IO)


def _invalid(error: Any) -> Verdict:  # noqa: ANN401
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "a value"
    return Verdict(f"{error.title} is not as expected, {where}: {first['msg']}; correct it.", BAD_DATA)


def _text(error: Any) -> Verdict:  # noqa: ANN401
    return Verdict(f"a name or a file is not text of the expected kind, {_brief(error)}; write it in UTF-8.", BAD_DATA)


def _too_deep(error: Any) -> Verdict:  # noqa: ANN401
    return Verdict("the data is nested too deeply to be read; give it a flatter form.", BAD_DATA)


def _address(error: Any) -> Verdict:  # noqa: ANN401
    return Verdict(f"the address cannot be used, {_brief(error)}; write it as http://HOST:PORT.", CONFIG)


def _network(error: Any) -> Verdict:  # noqa: ANN401
    return Verdict(f"the service did not answer, {_brief(error)}; check its address and the network.", IO)


def _brief(error: BaseException) -> str:
    """The type and the first line of what it says, of a length that a person reads."""
    line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {line[:_BRIEF_CHARS]}" if line else type(error).__name__


_BRIEF_CHARS = 200

# By name, since a client has neither torch nor httpx loaded when something else fails. The first class of an error's ancestry decides.
_FOREIGN: dict[str, Callable[[Any], Verdict]] = {
    "builtins.ImportError": _not_installed,
    "builtins.ConnectionError": _connection,
    "builtins.OSError": _system,
    "builtins.MemoryError": _memory,
    "torch.OutOfMemoryError": _memory,
    "builtins.RecursionError": _too_deep,
    "builtins.UnicodeError": _text,
    "sqlite3.Error": _database,
    "pydantic_core._pydantic_core.ValidationError": _invalid,
    "httpx.InvalidURL": _address,
    "httpx.HTTPError": _network,
}
