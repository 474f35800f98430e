"""kNN classification: the labelled neighbours of a query vote with DINO's softmax weights, or others (`backbone.vote`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from backbone.vote import vote
from service.analysis.voting import Voting
from service.points import Classification, ClassProbability, Hit


def classify(
    neighbours: Sequence[Sequence[Hit]],
    voting: Voting,
    reject_below: float | None = None,
    sizes: Sequence[Mapping[str, int]] | None = None,
) -> list[Classification]:
    """Return one vote for each query's labelled neighbours (best first, at least one each).

    A class is rejected (label None) where its probability is below `reject_below`. Equal probabilities go to the class
    that comes first in the alphabet, so that the answer does not depend on the order of storing.

    sizes: for each query, how many labelled points each class has where its neighbours were sought; a balanced vote needs them.
    """
    names = sorted({hit.label for hits in neighbours for hit in hits if hit.label is not None})
    number = {name: i for i, name in enumerate(names)}
    shape = len(neighbours), max((len(hits) for hits in neighbours), default=0)
    scores = np.full(shape, -np.inf)  # [Q, k]; -inf where a query has fewer neighbours
    labels = np.zeros(shape, np.int64)
    frequency = None if sizes is None else np.ones(shape, np.int64)
    for query, hits in enumerate(neighbours):
        scores[query, : len(hits)] = [hit.score for hit in hits]
        labels[query, : len(hits)] = [number[hit.label] for hit in hits if hit.label is not None]
        if sizes is not None and frequency is not None:
            # a class that came with a write since the neighbours were found has no size yet
            frequency[query, : len(hits)] = [max(sizes[query].get(hit.label or "", 1), 1) for hit in hits]
    probabilities = vote(scores, labels, len(names), voting.temperature, voting.weighting, frequency)  # [Q, C]
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
