"""The child process that builds an approximate index over a folder's vectors, or adds them to the index that there is.

python -m service.index_build TASK PARENT, with TASK as JSON. A process of its own (`service/child.py`), because building takes
minutes of every core.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from service import planner
from service.approximate import ApproximateIndex, Reach
from service.child import give_way, run_child
from service.points import Vector

VECTORS, INDEX, REACH = "vectors.f32", "index.faiss", "reach.json"


@dataclass(frozen=True)
class _Task:
    """What to do: the folder with the vectors, their dimension, and the index of the first of them, where there is one."""

    folder: str
    dimension: int
    threads: int
    index: str | None
    reach: dict[str, Any] | None


def build(
    folder: Path, dimension: int, threads: int, check: Callable[[], None], extended: ApproximateIndex | None = None
) -> Reach | None:
    """Make an index over FOLDER/vectors.f32 as FOLDER/index.faiss, in a child process; return the effort it needs.

    `extended` is an index over the first of the vectors: the others are added to what its file holds, unless that would need too much
    effort. None where no kind will do; there is no file then. `check` is called now and then and may raise to stop the child. Raises
    ChildFailed.
    """
    task = _Task(str(folder), dimension, threads, None, None)
    if extended is not None:
        task = _Task(str(folder), dimension, threads, str(extended.path), asdict(extended.reach))
    run_child("service.index_build", [json.dumps(asdict(task))], check, environment={"OMP_NUM_THREADS": str(threads)})
    said = json.loads((folder / REACH).read_bytes())
    (folder / REACH).unlink()
    return None if said is None else Reach(**said)


def main(task: _Task) -> None:
    """Build, measure, and write both down."""
    faiss.omp_set_num_threads(task.threads)
    folder = Path(task.folder)
    vectors = np.memmap(folder / VECTORS, "<f4", "r").reshape(-1, task.dimension)
    found = _extended(task, vectors) or planner.build(vectors)
    if found is not None:
        with (folder / INDEX).open("wb") as file:  # FAISS' own writer keeps quiet about errors at closing
            faiss.write_index(found[0], faiss.BufferedIOWriter(faiss.PyCallbackIOWriter(file.write), 2**20))
    (folder / REACH).write_text(json.dumps(None if found is None else asdict(found[1])))


def _extended(task: _Task, vectors: Vector) -> tuple[Any, Reach] | None:
    if task.index is None or task.reach is None:
        return None
    index = faiss.read_index(task.index)
    reach = planner.extend(index, Reach(**task.reach), vectors)
    return None if reach is None else (index, reach)


if __name__ == "__main__":
    give_way(int(sys.argv[2]))
    main(_Task(**json.loads(sys.argv[1])))
