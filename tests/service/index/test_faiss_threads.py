from __future__ import annotations

import subprocess
import sys

import faiss
import pytest

from service.index.faiss_threads import MATRIX_NUMBERS, faiss_threads

THRESHOLDS = """
import faiss, numpy as np
from service.index import build_worker
from service.index.vector_index import VectorIndex
index = VectorIndex(4)
index.add(np.arange(1, 3), np.eye(4, dtype=np.float32)[:2])
print(faiss.cvar.distance_compute_blas_threshold)
index.view().search(np.eye(4, dtype=np.float32)[:1], 1)
print(faiss.cvar.distance_compute_blas_threshold)
"""


def fail_on(threads: int) -> None:
    with faiss_threads(threads):
        assert faiss.omp_get_max_threads() == threads
        raise OSError


def test_the_number_of_threads_is_put_back_also_after_an_error() -> None:
    before = faiss.omp_get_max_threads()
    with pytest.raises(OSError):
        fail_on(before + 2)
    assert faiss.omp_get_max_threads() == before


def test_the_first_search_of_a_process_sets_when_matrices_are_multiplied_and_no_import_does() -> None:
    done = subprocess.run([sys.executable, "-c", THRESHOLDS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["128000", str(MATRIX_NUMBERS)]
