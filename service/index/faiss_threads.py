"""FAISS and the processor: how many threads a call uses, and from when on it multiplies matrices.

OpenMP keeps the number of threads per calling thread, so it is set around each call; the other is set once for the process.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import faiss

# Numbers of a batch of queries (queries x dimension) from which on FAISS' exact search is a matrix product. Its own 128,000 scans
# vector by vector up to 333 queries of 384 dimensions; a product is 1.3 times as fast for 8 and 4 times for 64.
MATRIX_NUMBERS = 8_192


@contextmanager
def faiss_threads(count: int) -> Iterator[None]:
    """Let FAISS calls of this thread use `count` threads; put the number back in the end."""
    prefer_matrix_products()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@functools.cache
def prefer_matrix_products() -> None:
    """Let the exact searches of this process be matrix products from MATRIX_NUMBERS on; the first call does it."""
    faiss.cvar.distance_compute_blas_threshold = MATRIX_NUMBERS
