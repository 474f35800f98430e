"""How many threads FAISS may use. OpenMP keeps that number per calling thread, so it is set around each call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import faiss


@contextmanager
def faiss_threads(count: int) -> Iterator[None]:
    """Let FAISS calls of this thread use `count` threads; put the number back in the end."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
