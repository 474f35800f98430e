"""Retrieval: does a search with one image bring up the others of its class?

Each query ranks the whole bank by cosine, equal cosines by row. An image of the query's class is relevant; recall@k is the share of
queries with at least one relevant image among the first k, mAP the mean over queries of the average precision over the full ranking.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backbone.machine import usable_cores

RECALL_AT = (1, 5, 10)  # the first hit, a row of thumbnails, a page
BLOCK_SCORES = 2**20  # similarities that a core holds at once: with their sort keys 16 MiB, which stay near it


@dataclass(frozen=True)
class RetrievalScores:
    """Numbers from 0 to 1. recall: by k as text, so that it is the same in JSON; mean_average_precision: over the full ranking."""

    recall: dict[str, float]
    mean_average_precision: float


def score_retrieval(
    bank: NDArray[np.float32],
    bank_labels: NDArray[np.integer],
    queries: NDArray[np.float32],
    query_labels: NDArray[np.integer],
) -> RetrievalScores:
    """Search the bank with every query.

    Args:
        bank: [M, D] unit vectors, M < 2^31.
        bank_labels: [M].
        queries: [Q, D] unit vectors, Q >= 1.
        query_labels: [Q]; a query whose class the bank lacks finds nothing and counts as zero.
    """
    first = np.empty(len(queries), dtype=np.int64)
    precision = np.empty(len(queries), dtype=np.float64)
    step = max(1, BLOCK_SCORES // max(len(bank), 1))

    def search(start: int) -> None:
        block = slice(start, start + step)
        relevant = bank_labels[None, :] == query_labels[block, None]  # [q, M]
        hits = _ranked(queries[block] @ bank.T, relevant)
        first[block] = np.where(hits.any(axis=1), hits.argmax(axis=1), len(bank))
        precision[block] = _average_precision(hits)

    with ThreadPoolExecutor(usable_cores()) as pool:  # sorting is most of the work, and numpy sorts in one thread
        list(pool.map(search, range(0, len(queries), step)))
    recall = {str(k): float(np.mean(first < min(k, len(bank)))) for k in RECALL_AT}
    return RetrievalScores(recall, float(precision.mean()))


def _ranked(similarity: NDArray[np.float32], relevant: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Reorder each row of `relevant` [q, M] from the most to the least similar, equal ones by column.

    One sort of whole numbers, in place of an indirect sort, which is many times slower: a key holds the similarity's bits (as an order
    that whole numbers have, largest first), the column, and in the last bit what is wanted.
    """
    bits = (np.float32(0) - similarity).view(np.int32)  # ascending is now best first; the difference makes 0 of -0, too
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)  # the bits of negative numbers count down: turn all but the sign
    keys = bits.astype(np.int64)
    keys <<= 32
    keys |= np.arange(similarity.shape[1], dtype=np.int64) << 1
    keys |= relevant
    keys.sort(axis=1)
    return (keys & 1).astype(np.bool_)


def _average_precision(hits: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return, for each row [M] in order of rank, the mean of the precision at each hit; zero for a row without hits."""
    rows, ranks = np.nonzero(hits)
    counts = np.count_nonzero(hits, axis=1)
    before = np.repeat(np.cumsum(counts) - counts, counts)  # hits of earlier rows
    found = np.arange(1, len(rows) + 1) - before  # how many hits this row has had, this one included
    total = np.bincount(rows, weights=found / (ranks + 1), minlength=len(hits))
    return np.divide(total, counts, out=np.zeros(len(hits)), where=counts > 0)
