"""The k-nearest-neighbour vote of DINO, in numpy: training's log, evaluation and the service call this code, so their scores agree.

Caron et al. 2021 (arXiv:2104.14294), section 4.1 and appendix F, after Wu et al. 2018: each of the k nearest neighbours votes for its
label with weight exp(cosine / temperature).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TEMPERATURE = 0.07  # the paper's
NEIGHBOURS = 20  # the paper's best of 10, 20, 100, 200 on ImageNet; also small enough for small collections
BLOCK_SCORES = 16 * 2**20  # similarities held at once in `nearest`: 64 MiB of float32


def vote(
    scores: NDArray[np.floating],
    labels: NDArray[np.integer],
    classes: int,
    temperature: float = TEMPERATURE,
) -> NDArray[np.float64]:
    """Weigh the neighbours' labels.

    Args:
        scores: [Q, k] cosine similarities of each query's neighbours; -inf marks a missing neighbour.
        labels: [Q, k] class index of each neighbour; any value where the neighbour is missing.
        classes: the number of classes C.
        temperature: softmax temperature.

    Returns:
        [Q, C] probabilities; each row sums to one (a row without neighbours is zero).
    """
    queries = scores.shape[0]
    best = np.max(scores, axis=1, keepdims=True, initial=-np.inf)
    shifted = np.where(np.isfinite(scores), scores - np.where(np.isfinite(best), best, 0.0), -np.inf)
    weights = np.exp(shifted.astype(np.float64) / temperature)
    votes = np.zeros((queries, classes), dtype=np.float64)
    present = np.isfinite(scores)
    rows = np.broadcast_to(np.arange(queries)[:, None], scores.shape)
    np.add.at(votes, (rows[present], labels[present]), weights[present])
    totals = votes.sum(axis=1, keepdims=True)
    return np.divide(votes, totals, out=votes, where=totals > 0)


def nearest(
    queries: NDArray[np.float32], bank: NDArray[np.float32], k: int, *, exclude_self: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k most similar rows exactly; equal scores are ordered by row.

    Args:
        queries: [Q, D] unit vectors.
        bank: [M, D] unit vectors.
        k: neighbours wanted; capped at what is there.
        exclude_self: leave row i of the bank out of the answer to query i (leave-one-out; queries and bank are the same rows).

    Returns:
        scores [Q, k] and row numbers [Q, k], best first.
    """
    k = min(k, len(bank) - int(exclude_self))
    step = max(1, BLOCK_SCORES // max(len(bank), 1))
    found_scores = np.empty((len(queries), max(k, 0)), dtype=np.float32)
    found_rows = np.empty((len(queries), max(k, 0)), dtype=np.int64)
    for start in range(0, len(queries) if k > 0 else 0, step):
        block = slice(start, min(start + step, len(queries)))
        similarity = queries[block] @ bank.T  # [q, M]
        if exclude_self:
            rows = np.arange(block.start, block.stop)
            similarity[rows - block.start, rows] = -np.inf
        similarity[np.isnan(similarity)] = -np.inf  # a vector that is not finite is nobody's neighbour
        found_scores[block], found_rows[block] = _best(similarity, k)
    return found_scores, found_rows


def _best(similarity: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the k largest values of each row [q, M] and their columns, largest first, equal ones by column.

    Columns decide at the edge, too: otherwise which copies of an image vote would depend on k and on the size of a block.
    """
    rows, width = similarity.shape
    least = np.partition(similarity, width - k, axis=1)[:, width - k, None]  # the k-th largest
    at = np.flatnonzero(similarity >= least)  # k of each row, or more where several are equal to the least
    values, (row, column) = similarity.ravel()[at], np.divmod(at, width)
    order = np.lexsort((column, -values, row))
    best = order[np.searchsorted(row, np.arange(rows))[:, None] + np.arange(k)]
    return values[best], column[best]


def knn_accuracy(
    bank: NDArray[np.float32],
    bank_labels: NDArray[np.integer],
    queries: NDArray[np.float32],
    query_labels: NDArray[np.integer],
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> float:
    """Share of queries whose most probable class by `vote` is their own: a number in [0, 1]."""
    classes = int(max(bank_labels.max(), query_labels.max())) + 1
    scores, rows = nearest(queries, bank, k)
    predicted = vote(scores, bank_labels[rows], classes, temperature).argmax(axis=1)
    return float(np.mean(predicted == query_labels))
