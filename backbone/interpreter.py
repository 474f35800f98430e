"""Child interpreters: the command line and the environment of a Python process that runs a module of ours.

`python -m MODULE` looks for modules in the current directory first, so that a folder of pictures with a `random.py` or a `service.py`
in it would be run. A child gets `-P` instead, and is told where this process finds its modules: nowhere that depends on where a person
stands.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of ours; its environment is `module_environment`."""
    return [sys.executable, "-P", "-m", module, *arguments]


def module_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a child, and what it starts in turn, finds the modules that this process would find."""
    return {**environment, "PYTHONPATH": os.pathsep.join(search_path()), "PYTHONSAFEPATH": "1"}


@contextlib.contextmanager
def safe_children() -> Iterator[None]:
    """Let also those interpreters look up modules so that libraries start meanwhile: loaders, ranks of a run, compilers."""
    names = ("PYTHONPATH", "PYTHONSAFEPATH")
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update(module_environment({}))
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


def search_path() -> list[str]:
    """Return where this process looks for modules, without what is there only for the directory or the script it was started in.

    Those are what Python puts first by itself, and an empty or a relative entry of PYTHONPATH. A directory stays where the code of
    dinodex lies in it, as in a checkout, or where PYTHONPATH names it in full.
    """
    by_chance = {_real(os.curdir), _real(Path(sys.argv[0]).parent)}
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    meant = {_real(Path(__file__).parents[1]), *(_real(path) for path in given if Path(path).is_absolute())}
    return [path for path in sys.path if path and (_real(path) in meant or _real(path) not in by_chance)]


def _real(path: str | os.PathLike[str]) -> str | None:
    """Return a path without symbolic links; None for the current directory where that is gone."""
    try:
        return os.path.realpath(path)
    except FileNotFoundError:
        return None
