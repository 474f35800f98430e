"""A folder of a stranger's Python files: each has the name of a module that dinodex needs, and leaves a mark when it is run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

MODULES = (
    *("random", "types", "json", "struct", "socket", "tempfile", "signal", "ctypes", "copy", "inspect", "secrets"),
    *("numpy", "PIL", "torch", "faiss", "sklearn", "httpx", "yaml"),
    *("backbone", "service", "training"),
    *("sitecustomize", "usercustomize"),
)


def hostile_folder(folder: Path, modules: Sequence[str] = MODULES) -> Path:
    """Write the files, half of the names as packages, and return the file that appears when one of them is run."""
    mark = folder / "was-run"
    for number, name in enumerate(modules):
        path = folder / f"{name}.py" if number % 2 else folder / name / "__init__.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(mark)!r}, 'a').write({name!r} + ' ')\nraise ImportError('a stranger')\n")
    return mark
