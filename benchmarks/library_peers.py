"""The peers that the library is measured against: hnswlib, usearch, and FAISS comparing with everything. They hold vectors alone.

Graphs are built once with each library's default parameters and kept in a folder, for building takes minutes at a million.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import faiss
import hnswlib
import numpy as np
from library_data import Data, Numbers, Vectors
from machine import seconds
from numpy.typing import NDArray
from usearch.index import Index

from backbone.machine import usable_cores
from service.index.faiss_threads import prefer_matrix_products

EF_CONSTRUCTION = 200  # hnswlib's default; its M is 16. usearch's defaults are 16 and 128
EF_LADDER = (10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 512, 768, 1024)
BLOCK = 50_000


class Hnswlib:
    """hnswlib as it comes: M 16, ef_construction 200, float32."""

    name = "hnswlib"

    def __init__(self, data: Data, folder: Path) -> None:
        """Read the graph over these vectors, or build it."""
        vectors, path = data.vectors, folder / f"hnswlib-{data.name}-{len(data.vectors)}.bin"
        self.built_s = None
        if not path.exists():
            new = hnswlib.Index("ip", vectors.shape[1])
            new.init_index(len(vectors), ef_construction=EF_CONSTRUCTION, M=16)
            self.built_s = seconds(lambda: new.add_items(vectors, num_threads=usable_cores()))
            new.save_index(str(path))
            del new
        self.index = hnswlib.Index("ip", vectors.shape[1])
        self.opened_s = seconds(lambda: self.index.load_index(str(path)))
        self.bytes = path.stat().st_size

    def look(self, ef: int) -> None:
        """Set how far each search looks."""
        self.index.set_ef(ef)

    def search(self, queries: Vectors, k: int, threads: int) -> Numbers:
        """Return positions [Q, k]."""
        return self.index.knn_query(queries, k, num_threads=threads)[0].astype(np.int64)

    def search_allowed(self, queries: Vectors, k: int, allowed: NDArray[np.bool_]) -> Numbers:
        """Return positions [Q, k] among the allowed: its filter is a Python function, and it wants one thread then."""
        return self.index.knn_query(queries, k, num_threads=1, filter=allowed.__getitem__)[0].astype(np.int64)

    def delete(self, positions: Numbers) -> None:
        """Hide vectors from searches."""
        for position in positions.tolist():
            self.index.mark_deleted(position)


class Usearch:
    """usearch with its default connectivity and expansion, and float16 vectors: half the memory at hardly less precision."""

    name = "usearch"

    def __init__(self, data: Data, folder: Path) -> None:
        """Read the graph over these vectors, or build it."""
        vectors, path = data.vectors, folder / f"usearch-{data.name}-{len(data.vectors)}.bin"
        self.index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
        self.built_s = None
        if not path.exists():
            keys = np.arange(len(vectors))
            self.built_s = seconds(lambda: self.index.add(keys, np.asarray(vectors), threads=usable_cores()))
            self.index.save(str(path))
        self.opened_s = seconds(lambda: self.index.load(str(path)))
        self.bytes = path.stat().st_size

    def look(self, ef: int) -> None:
        """Set how far each search looks."""
        self.index.expansion_search = ef

    def search(self, queries: Vectors, k: int, threads: int) -> Numbers:
        """Return positions [Q, k]."""
        keys = np.asarray(self.index.search(queries, k, threads=threads).keys, np.int64)
        return keys.reshape(len(queries), -1)

    def delete(self, positions: Numbers) -> None:
        """Take vectors out."""
        self.index.remove(positions, threads=usable_cores())


class Exact:
    """FAISS, comparing with every vector."""

    name = "FAISS exact"

    def __init__(self, vectors: Vectors) -> None:
        """Hold the vectors where they are."""
        self.vectors = vectors
        prefer_matrix_products()  # as the library's own searches have it

    def search(self, queries: Vectors, k: int, threads: int) -> Numbers:
        """Return positions [Q, k]."""
        faiss.omp_set_num_threads(threads)
        return faiss.knn(queries, self.vectors, k, faiss.METRIC_INNER_PRODUCT)[1]

    def search_allowed(self, queries: Vectors, k: int, allowed: NDArray[np.bool_]) -> Numbers:
        """Return positions [Q, k] among the allowed."""
        selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        faiss.omp_set_num_threads(1)
        cosines, at = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        arrays = [faiss.swig_ptr(array) for array in (queries, self.vectors, cosines, at)]
        shape = queries.shape[1], len(queries), len(self.vectors), k
        faiss.knn_inner_product(arrays[0], arrays[1], *shape, arrays[2], arrays[3], selector)
        return at


def tune(peer: Hnswlib | Usearch, recall: Callable[[], float], target: float) -> tuple[int, float]:
    """Leave a peer at the least ef of the ladder that reaches the target; return that and its recall."""
    for ef in EF_LADDER:
        peer.look(ef)
        reached = recall()
        if reached >= target:
            return ef, reached
    return EF_LADDER[-1], reached
