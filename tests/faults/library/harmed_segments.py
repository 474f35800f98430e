"""S49: a main segment on disk that is missing, damaged or hostile is made anew, and FAISS reads only what was written."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import faiss
from faults.library.history import THREADS, check, do, opened
from faults.library.small import small

from service.library.library import Collection, Library

WRITES = 60  # of each thread: enough for an approximate index
MANIFEST, INDEX = "manifest.json", "index.faiss"
# A flat index of 2^31 dimensions and 2^62 vectors, as far as its header goes; and one that is cut off in the middle of it.
HOSTILE = b"IxFI" + struct.pack("<iqqqBi", 2**31 - 1, 2**62, 1, 1, 1, 0) + struct.pack("<Q", 2**61)


def settled(collection: Collection) -> None:
    """Wait until nothing is being built."""
    deadline = time.monotonic() + 60
    while collection.stats().building:
        assert time.monotonic() < deadline, "the build does not end"
        time.sleep(0.01)


@contextmanager
def only_known_files() -> Iterator[list[Path]]:
    """Raise where FAISS is given a file whose checksum is not in its manifest; yield the files that it was given."""
    read, given = faiss.read_index, []

    def guarded(name: str, *more: Any) -> Any:  # noqa: ANN401 - FAISS has no types
        path = Path(name)
        said = json.loads((path.parent / MANIFEST).read_text())["files"][path.name]["sha256"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == said, f"FAISS was given {path.name} unseen"
        given.append(path)
        return read(name, *more)

    with patch("faiss.read_index", guarded):
        yield given


def library_with_segment(data: Path) -> Path:
    """Write a library whose main segment has an approximate index; return the generation that holds it."""
    with small(), only_known_files() as given:
        with Library.open(data, threads=1) as library:
            for number in range(WRITES):
                for thread in range(THREADS):
                    do(opened(library), thread, number)
            settled(opened(library))
        with Library.open(data, threads=1) as library:
            check(opened(library), [WRITES] * THREADS)
    [generation] = [path.parent for path in data.glob(f"index/*/*/{MANIFEST}")]
    assert (generation / INDEX) in given
    return generation


def harms(generation: Path) -> list[tuple[str, Callable[[], object]]]:
    """Return what may have become of a generation: a name, and how to make it so."""
    harms: list[tuple[str, Callable[[], object]]] = [
        ("its folder is gone", lambda: shutil.rmtree(generation)),
        ("the manifest is a list", lambda: (generation / MANIFEST).write_text("[]")),
        ("the manifest is nested too deep", lambda: (generation / MANIFEST).write_text("[" * 100_000)),
        ("the manifest is not text", lambda: (generation / MANIFEST).write_bytes(bytes(range(256)))),
        ("the index is hostile", lambda: (generation / INDEX).write_bytes(HOSTILE)),
        ("the index is hostile and long", lambda: (generation / INDEX).write_bytes(HOSTILE + bytes(10**6))),
        ("the index is a directory", lambda: ((generation / INDEX).unlink(), (generation / INDEX).mkdir())),
    ]
    for path in sorted(generation.iterdir()):
        data = path.read_bytes()
        swapped = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :]
        harms += [
            (f"{path.name} is gone", path.unlink),
            (f"{path.name} is empty", lambda path=path: path.write_bytes(b"")),
            (f"{path.name} is half as long", lambda path=path, data=data: path.write_bytes(data[: len(data) // 2])),
            (f"{path.name} is longer", lambda path=path, data=data: path.write_bytes(data + b"\0")),
            (f"{path.name} has another bit", lambda path=path, swapped=swapped: path.write_bytes(swapped)),
        ]
    return harms


def harm_all(folder: Path) -> int:
    """Harm a main segment in each way; the library must open and answer as if nothing had been. Return the number of ways."""
    generation = library_with_segment(folder / "data")
    every = harms(generation)
    for name, harm in every:
        shutil.copytree(folder / "data", folder / "kept")
        harm()
        with small(), only_known_files(), Library.open(folder / "data", threads=1) as library:
            check(opened(library), [WRITES] * THREADS, name)
            do(opened(library), 0, WRITES)  # and it goes on
            check(opened(library), [WRITES + 1, *[WRITES] * (THREADS - 1)], name)
        shutil.rmtree(folder / "data")
        (folder / "kept").rename(folder / "data")
    return len(every)
