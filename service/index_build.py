"""The child process that builds an approximate index: python -m service.index_build FOLDER DIMENSION THREADS PARENT.

A process of its own, because building takes minutes of every core. At a low priority it gives way to searches; inside the
service it would at times hold the interpreter lock while it gives way, and everyone would wait. It ends with its parent, and
what it takes or does to its memory is nobody else's.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import faiss
import numpy as np

from service import planner
from service.approximate import Reach

VECTORS, INDEX, REACH = "vectors.f32", "index.faiss", "reach.json"
_PR_SET_PDEATHSIG = 1
# A tenth of what a search gets where both want a core: at 19, or idle only, a busy service would never be done.
NICENESS = 10
_LOOK_S = 0.1  # seconds between two looks at whether to stop


class BuildFailed(Exception):
    """The child ended badly; the message says how."""


def build(folder: Path, dimension: int, threads: int, check: Callable[[], None]) -> Reach | None:
    """Build an index over FOLDER/vectors.f32 into FOLDER/index.faiss, in a child process; return the effort it needs.

    None where no kind will do; there is no file then. `check` is called now and then and may raise to stop the child.
    Raises BuildFailed.
    """
    command = [sys.executable, "-m", "service.index_build", str(folder), str(dimension)]
    command += [str(threads), str(os.getpid())]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "OMP_NUM_THREADS": str(threads),
    }
    with (folder / "log").open("w+b") as log:
        child = subprocess.Popen(  # noqa: S603 - our own words
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
        try:
            while child.poll() is None:
                check()
                try:
                    child.wait(_LOOK_S)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            child.kill()
            child.wait()
        if child.returncode != 0:
            log.seek(0)
            said = log.read()[-500:].decode(errors="replace").strip().splitlines()
            raise BuildFailed(f"building the index ended with {child.returncode}: {said[-1] if said else 'no word'}")
    (folder / "log").unlink()
    said = json.loads((folder / REACH).read_bytes())
    (folder / REACH).unlink()
    return None if said is None else Reach(**said)


def main(folder: Path, dimension: int, threads: int, parent: int) -> None:
    """Build, measure, and write both down."""
    _give_way(parent)
    faiss.omp_set_num_threads(threads)
    vectors = np.memmap(folder / VECTORS, "<f4", "r").reshape(-1, dimension)
    found = planner.build(vectors)
    if found is not None:
        with (folder / INDEX).open("wb") as file:  # FAISS' own writer keeps quiet about errors at closing
            faiss.write_index(found[0], faiss.BufferedIOWriter(faiss.PyCallbackIOWriter(file.write), 2**20))
    (folder / REACH).write_text(json.dumps(None if found is None else asdict(found[1])))


def _give_way(parent: int) -> None:
    """Take a low priority, and end with the parent."""
    os.nice(NICENESS)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before we could ask
            sys.exit("the parent is gone")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
