"""A main segment on disk: DATA/index/COLLECTION/GENERATION/, written whole or not at all, and read only where all is proved good.

    vectors.f32     float32 [N, D], little-endian, unit rows
    rows.i64        int64 [N], ascending: the row of each vector
    index.faiss     the approximate index, where there is one
    manifest.json   what this belongs to, the effort that the index needs, and size and sha256 of the other files; written last

Everything here can be made again from SQLite, so there is one answer to anything odd: reject it and build anew. FAISS' own reader
accepts many damaged files (13 of 60 with flipped bits), so no file reaches it whose checksum has not been compared.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import shutil
import stat
from collections.abc import Callable, Container, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backbone.durable import PRIVATE_FILE, PRIVATE_FOLDER, new_directory, write_file
from service.index.approximate import ApproximateIndex, SearchEffort
from service.index.build_worker import INDEX, VECTORS, Built
from service.index.hashed_files import describe, write_hashed
from service.index.segments import Segment
from service.points import Rows, Vector

FORMAT = 2
ROWS, MANIFEST = "rows.i64", "manifest.json"
MAX_MANIFEST_BYTES = 64 * 1024  # ours have one
_GROUP, _TO_READ_AND_WRITE = 0o070, 0o660  # bits of a mode


class SegmentRejected(Exception):
    """A main segment on disk that cannot be used: missing, damaged, of another library or another format."""


@dataclass(frozen=True)
class SegmentIdentity:
    """The source of a main segment: the library (its epoch), the collection, the model."""

    epoch: str
    collection: int
    fingerprint: str
    dimension: int


@dataclass(frozen=True)
class MainSegment:
    """A main segment that was read or written, the greatest row it can hold, and where it lies."""

    segment: Segment
    last_row: int
    path: Path


def folder_of(index: Path, collection: int) -> Path:
    """Return where the generations of a collection lie."""
    return index / str(collection)


def generations(folder: Path) -> list[Path]:
    """Return the generations in a folder, newest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.name.isdecimal()), key=lambda p: -int(p.name))


def clear(folder: Path, keep: Path | None = None) -> None:
    """Delete what lies in a folder of generations but for one. What cannot be deleted stays: it is only space."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)
    if keep is None:
        shutil.rmtree(folder, ignore_errors=True)


def clear_others(index: Path, collections: Container[int]) -> None:
    """Delete what belongs to none of these collections, and what an interrupted write left behind."""
    for home in index.iterdir() if index.is_dir() else ():
        if not home.name.isdecimal() or int(home.name) not in collections:
            shutil.rmtree(home, ignore_errors=True)
            continue
        for path in home.iterdir():
            if not path.name.isdecimal():
                shutil.rmtree(path, ignore_errors=True)


def write(
    path: Path,
    identity: SegmentIdentity,
    tick: int,
    rows: Rows,
    blocks: Iterable[Vector],
    build: Callable[[Path], Built | None],
    into: str = VECTORS,
) -> MainSegment:
    """Write a generation of the vectors [N, D] that `blocks` yields, and return it as it is read back.

    `build` may make an index in the folder that it is given, over the vectors that lie there; None says that it did not. Where they
    are written `into` another file, it makes the file of all vectors of them. Raises StorageFailed, SegmentRejected, and what `build`
    and the blocks raise; nothing of it stays then.
    """
    with new_directory(path, mode=PRIVATE_FOLDER) as folder:
        written = write_hashed(folder / into, (_bytes(block, "<f4") for block in blocks))
        files = {ROWS: write_hashed(folder / ROWS, [_bytes(rows, "<i8")])}
        built = build(folder)
        effort = None if built is None else built.effort
        if into == VECTORS:
            files[VECTORS] = written
        if built is not None:
            files |= built.files
        manifest = {
            "format": FORMAT,
            "belonging": asdict(identity),
            "tick": tick,
            "last_row": int(rows[-1]),
            "reach": None if effort is None else asdict(effort),
            "files": files,
        }
        write_file(folder / MANIFEST, json.dumps(manifest, indent=1).encode(), mode=PRIVATE_FILE)
        _open_to_group(folder, path.parent)
    try:
        return _opened(path, identity.dimension, len(rows), int(rows[-1]), effort)
    except (OSError, RuntimeError) as error:
        raise SegmentRejected(f"what was just written cannot be read: {error}") from error


def _open_to_group(generation: Path, home: Path) -> None:
    """Let the group that the folder of the index is open to have a new generation, too, and the folder of its collection."""
    if not (group := home.parent.stat().st_mode & _GROUP):
        return
    for path in (home, generation, *generation.iterdir()):
        mode = stat.S_IMODE(path.stat().st_mode)
        with contextlib.suppress(PermissionError):  # another one of the group made the collection's, and opened it
            path.chmod(mode | group if path.is_dir() else mode | group & _TO_READ_AND_WRITE)


def read(path: Path, identity: SegmentIdentity, tick: int) -> MainSegment:
    """Open a generation. `tick` is how far the library has come: a segment from beyond it is of a library that was put back since.

    Raises SegmentRejected.
    """
    try:
        manifest = json.loads(_small(path / MANIFEST))
        if manifest["format"] != FORMAT or manifest["belonging"] != asdict(identity) or manifest["tick"] > tick:
            raise SegmentRejected("it belongs to something else")
        files = manifest["files"]
        with ThreadPoolExecutor(2) as pool:  # hashing keeps two cores busy, and the disk
            list(pool.map(lambda name: _compare(path / name, files[name]), sorted(files)))
        count = files[ROWS]["size"] // 8
        effort = None if manifest["reach"] is None else SearchEffort(**manifest["reach"])
        main = _opened(path, identity.dimension, count, int(manifest["last_row"]), effort)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise SegmentRejected(f"it cannot be read: {error}") from error
    return main


def _opened(path: Path, dimension: int, count: int, last_row: int, effort: SearchEffort | None) -> MainSegment:
    vectors = _mapped(path / VECTORS, "<f4", (count, dimension))
    rows = _mapped(path / ROWS, "<i8", (count,))
    approximate = None
    if effort is not None:
        approximate = ApproximateIndex.read(path / INDEX, effort)
        if approximate.count != count:
            raise SegmentRejected("index and vectors differ in number")
    if count and not (rows[0] > 0 and rows[-1] <= last_row and bool((np.diff(rows) > 0).all())):
        raise SegmentRejected("its rows are not in order")
    return MainSegment(Segment(vectors, rows, count, approximate=approximate, fixed=True), last_row, path)


def _small(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise SegmentRejected("its manifest is too long")
    return data


def _compare(path: Path, entry: dict[str, Any]) -> None:
    if path.stat().st_size != entry["size"] or describe(path) != entry:
        raise SegmentRejected(f"{path.name} is damaged")


def _mapped(path: Path, dtype: str, shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - an array of the dtype
    """Return a file as a read-only array; its pages are the system's to keep or to drop."""
    if 0 in shape:
        return np.empty(shape, dtype)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, dtype).reshape(shape)


def _bytes(array: npt.NDArray[Any], dtype: str) -> memoryview:
    return memoryview(np.ascontiguousarray(array, dtype).data).cast("B")
