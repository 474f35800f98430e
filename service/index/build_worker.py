"""The child process that builds an approximate index over a folder's vectors, or adds vectors to the index that there is.

python -m service.index.build_worker TASK PARENT, with TASK as JSON. A process of its own
(`service/concurrency/child_process.py`), because building takes minutes of every core; growing also copies a gigabyte, which is better
done at a low priority, too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from backbone.interpreter import module_command, module_environment
from service.concurrency.child_process import give_way, run_child
from service.index import planner
from service.index.approximate import ApproximateIndex, SearchEffort
from service.index.hashed_files import HashedFile, write_hashed
from service.points import Vector

VECTORS, INDEX = "vectors.f32", "index.faiss"
MORE = "more.f32"  # the vectors that come behind those of the index that grows
_BUILT = "built.json"
_MODULE = "service.index.build_worker"  # this one, as the child runs it
_COPIED_BYTES = 2**20  # at a time


@dataclass(frozen=True)
class Built:
    """The work of a child: the effort that the index needs, None where no kind will do and there is none; and what a manifest says of
    the files.
    """

    effort: SearchEffort | None
    files: dict[str, Any]


@dataclass(frozen=True)
class _Task:
    """The task of a child: the folder, the dimension of its vectors, and the index that grows, where one does."""

    folder: str
    dimension: int
    threads: int
    index: str | None = None
    reach: dict[str, Any] | None = None  # a SearchEffort, under its name in manifests


def build(
    folder: Path, dimension: int, threads: int, check: Callable[[], None], grown: ApproximateIndex | None = None
) -> Built:
    """Make FOLDER/index.faiss over FOLDER/vectors.f32, in a child process.

    Where an index is `grown`, the folder holds more.f32 instead: vectors.f32 becomes those beside the file of that index and these
    behind them, and its copy gets these; unless that would need too much effort, and it is built anew. `check` is called now and
    then and may raise to stop the child. Raises ChildFailed.
    """
    task = _Task(str(folder), dimension, threads)
    if grown is not None:
        task = _Task(str(folder), dimension, threads, str(grown.path), asdict(grown.effort))
    environment = module_environment({**os.environ, "OMP_NUM_THREADS": str(threads)})
    run_child(_MODULE, module_command(_MODULE, json.dumps(asdict(task))), environment, check)
    built = json.loads((folder / _BUILT).read_bytes())
    (folder / _BUILT).unlink()
    return Built(None if built["reach"] is None else SearchEffort(**built["reach"]), built["files"])


def main(task: _Task) -> None:
    """Build, measure, and write all of it down."""
    faiss.omp_set_num_threads(task.threads)
    folder = Path(task.folder)
    files = {}
    if task.index is not None:
        files[VECTORS] = write_hashed(folder / VECTORS, _copied(Path(task.index).with_name(VECTORS), folder / MORE))
        (folder / MORE).unlink()
    vectors = np.memmap(folder / VECTORS, "<f4", "r").reshape(-1, task.dimension)
    found = _grown(task, vectors) or planner.build(vectors)
    if found is not None:
        files[INDEX] = _write_index(folder / INDEX, found[0])
    effort = None if found is None else asdict(found[1])
    (folder / _BUILT).write_text(json.dumps({"reach": effort, "files": files}))


def _copied(*paths: Path) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            while part := file.read(_COPIED_BYTES):
                yield part


def _grown(task: _Task, vectors: Vector) -> tuple[Any, SearchEffort] | None:
    if task.index is None or task.reach is None:
        return None
    index = faiss.read_index(task.index)
    effort = planner.extend(index, SearchEffort(**task.reach), vectors)
    return None if effort is None else (index, effort)


def _write_index(path: Path, index: Any) -> dict[str, Any]:  # noqa: ANN401 - FAISS has no types
    with HashedFile(path) as file:  # FAISS' own writer keeps quiet about errors at closing
        faiss.write_index(index, faiss.BufferedIOWriter(faiss.PyCallbackIOWriter(file.write), 2**20))
    return file.manifest_entry()


if __name__ == "__main__":
    give_way(int(sys.argv[2]))
    main(_Task(**json.loads(sys.argv[1])))
