"""kNN classification: the labelled neighbours of a query vote with DINO's softmax weights (`backbone.vote`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backbone.vote import vote
from service.points import Classification, ClassProbability, Hit


def classify(
    neighbours: Sequence[Sequence[Hit]], temperature: float, reject_below: float | None = None
) -> list[Classification]:
    """Return one vote for each query's labelled neighbours (best first, at least one each).

    A class is rejected (label None) where its probability is below `reject_below`. Equal probabilities go to the class
    that comes first in the alphabet, so that the answer does not depend on the order of storing.
    """
    names = sorted({hit.label for hits in neighbours for hit in hits if hit.label is not None})
    number = {name: i for i, name in enumerate(names)}
    widest = max((len(hits) for hits in neighbours), default=0)
    scores = np.full((len(neighbours), widest), -np.inf)  # [Q, k]; -inf where a query has fewer neighbours
    labels = np.zeros((len(neighbours), widest), np.int64)
    for query, hits in enumerate(neighbours):
        scores[query, : len(hits)] = [hit.score for hit in hits]
        labels[query, : len(hits)] = [number[hit.label] for hit in hits if hit.label is not None]
    probabilities = vote(scores, labels, len(names), temperature)  # [Q, C]
    return [
        _decided(hits, names, row, reject_below) for hits, row in zip(neighbours, probabilities.tolist(), strict=True)
    ]


def _decided(
    hits: Sequence[Hit], names: Sequence[str], probabilities: Sequence[float], reject_below: float | None
) -> Classification:
    voted = {hit.label for hit in hits}
    classes = [ClassProbability(n, p) for n, p in zip(names, probabilities, strict=True) if n in voted]
    classes.sort(key=lambda c: -c.probability)  # stable: equal probabilities stay in the order of names
    best = classes[0]
    rejected = reject_below is not None and best.probability < reject_below
    return Classification(None if rejected else best.label, best.probability, tuple(classes), tuple(hits))
