"""The k-nearest-neighbour vote of DINO, in numpy: training's log, evaluation and the service call this code, so their scores agree.

Caron et al. 2021 (arXiv:2104.14294), section 4.1 and appendix F, after Wu et al. 2018: each of the k nearest neighbours votes for its
label with weight exp(cosine / temperature). Two other weightings, for comparison: by distance (Dudani 1976 in the simple form 1 / d)
and one neighbour, one vote (Cover & Hart 1967).
"""

from __future__ import annotations

from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray

Weighting = Literal["softmax", "distance", "uniform"]

TEMPERATURE = 0.07  # the paper's
SAME = 1e-6  # cosine distance up to which vectors count as equal: what float32 makes of two copies of one vector
NEIGHBOURS = 20  # the paper's best of 10, 20, 100, 200 on ImageNet; also small enough for small collections
BLOCK_SCORES = 16 * 2**20  # similarities held at once in `nearest`: 64 MiB of float32


def vote(
    scores: NDArray[np.floating],
    labels: NDArray[np.integer],
    classes: int,
    temperature: float = TEMPERATURE,
    weighting: Weighting = "softmax",
    sizes: NDArray[np.integer] | None = None,
) -> NDArray[np.float64]:
    """Weigh the neighbours' labels.

    Args:
        scores: [Q, k] cosine similarities of each query's neighbours; -inf marks a missing neighbour.
        labels: [Q, k] class index of each neighbour; any value where the neighbour is missing.
        classes: the number of classes C.
        temperature: softmax temperature; the other weightings have none.
        weighting: see `weigh`.
        sizes: [Q, k] how many points each neighbour's class has where the neighbours were sought, at least one; its weight is
            divided by it, so that a class is not favoured for being frequent. None divides by nothing.

    Returns:
        [Q, C] probabilities; each row sums to one (a row without neighbours is zero).
    """
    present = np.isfinite(scores)
    weights = weigh(scores, temperature, weighting)
    if sizes is not None:
        weights = np.divide(weights, sizes, out=np.zeros_like(weights), where=present)
    cells = np.arange(len(scores))[:, None] * classes + np.where(present, labels, 0)
    # the neighbours are added in their order, whatever the number of classes
    votes = np.bincount(cells.ravel(), weights.ravel(), len(scores) * classes).reshape(len(scores), classes)
    totals = votes.sum(axis=1, keepdims=True)
    return np.divide(votes, totals, out=votes, where=totals > 0)


def weigh(
    scores: NDArray[np.floating], temperature: float = TEMPERATURE, weighting: Weighting = "softmax"
) -> NDArray[np.float64]:
    """Return the weight of each neighbour's vote, [Q, k], 0 where it is missing; only the ratios within a row mean something.

    softmax: exp(cosine / temperature).
    distance: 1 / d with the cosine distance d = 1 - cosine; where neighbours equal the query (d <= SAME), they alone vote, alike.
    uniform: 1.
    """
    present = np.isfinite(scores)
    if weighting == "uniform":
        return present.astype(np.float64)
    exact = scores.astype(np.float64)
    if weighting == "distance":
        distance = np.where(present, 1.0 - exact, np.inf)
        same = distance <= SAME
        return np.where(same.any(axis=1, keepdims=True), same, 1.0 / np.maximum(distance, SAME))
    if weighting == "softmax":
        best = np.max(exact, axis=1, keepdims=True, initial=-np.inf)
        shifted = np.where(present, exact - np.where(np.isfinite(best), best, 0.0), -np.inf)
        with np.errstate(
            over="ignore"
        ):  # at the smallest temperatures all but the best go to -inf, which is their limit
            return np.exp(shifted / temperature)
    assert_never(weighting)


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
