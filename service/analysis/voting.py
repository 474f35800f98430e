"""Votes on points that are already there: each labelled point is classified by its nearest labelled others (leave-one-out).

The vote is `backbone.vote`, so what is found here is what `classify` answers to a query by the point's id.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from backbone.vote import TEMPERATURE, Weighting, vote
from service.analysis.point_set import NO_NEIGHBOUR, UNLABELLED, PointSet
from service.errors import CollectionEmpty
from service.points import Vector

Balance = Literal["none", "inverse"]
Labels = npt.NDArray[np.int64]

LEAST_VOTERS = 2  # one to ask about, and one to answer


@dataclass(frozen=True)
class Voting:
    """How neighbours vote.

    temperature: of the softmax weighting; the other weightings have none.
    weighting: see `backbone.vote.weigh`.
    balance: "inverse" divides each vote by the number of labelled points of its class among which the neighbours were sought:
        p(c) = (sum of w_j over neighbours j of class c) / n_c, normalised. Where the classes are equally frequent nothing changes.
    """

    temperature: float = TEMPERATURE
    weighting: Weighting = "softmax"
    balance: Balance = "none"


@dataclass(frozen=True)
class Verdicts:
    """The votes on b points. Each has a column for every class that its neighbours bear, S at most.

    probabilities: [b, S]; classes: int64 [b, S], ascending, UNLABELLED where a point has fewer than S.
    """

    probabilities: npt.NDArray[np.float64]
    classes: Labels

    def best(self) -> tuple[Labels, npt.NDArray[np.float64]]:
        """Return each point's most probable class (the first of equal ones) and its probability; UNLABELLED and 0 for none."""
        at = self.probabilities.argmax(axis=1)[:, None]
        return np.take_along_axis(self.classes, at, 1)[:, 0], np.take_along_axis(self.probabilities, at, 1)[:, 0]

    def of(self, labels: Labels) -> npt.NDArray[np.float64]:
        """Return the probability of a class of each point's own, [b]."""
        share: npt.NDArray[np.float64] = np.where(self.classes == labels[:, None], self.probabilities, 0.0).sum(axis=1)
        return share


class Voters:
    """The neighbours of b points, best first, and what they vote for.

    start: the position of the first point; scores [b, k]: cosines; positions [b, k]: the neighbours; own [b]: the points' labels.
    """

    def __init__(self, point_set: PointSet, counts: Labels, start: int, scores: Vector, positions: Labels) -> None:
        self.start, self.scores, self.positions = start, scores, positions
        self.own = point_set.labels[start : start + len(scores)]
        self.labels = np.where(positions == NO_NEIGHBOUR, UNLABELLED, point_set.labels[positions])
        # as if the point that is asked about were not there
        self._sizes = np.maximum(counts[self.labels] - (self.labels == self.own[:, None]), 1)
        self._columns, self._classes = _columns(self.labels)

    def verdicts(self, k: int, voting: Voting) -> Verdicts:
        """Return what the `k` nearest of the neighbours vote for."""
        sizes = self._sizes[:, :k] if voting.balance == "inverse" else None
        width = self._classes.shape[1]
        shares = vote(
            self.scores[:, :k], self._columns[:, :k], width, voting.temperature, voting.weighting, sizes
        )  # [b, S]
        return Verdicts(shares, self._classes)


def _columns(labels: Labels) -> tuple[Labels, Labels]:
    """Number the classes in each row of labels [b, k] from 0, ascending: columns [b, k], and the class of each column [b, S].

    With thousands of classes a vote has some tens of columns instead of thousands.
    """
    order = np.argsort(labels, axis=1)
    ascending = np.take_along_axis(labels, order, 1)
    number = np.zeros_like(labels)
    np.cumsum(ascending[:, 1:] != ascending[:, :-1], axis=1, out=number[:, 1:])
    columns = np.empty_like(labels)
    np.put_along_axis(columns, order, number, 1)
    classes = np.full((len(labels), int(number[:, -1].max()) + 1), UNLABELLED)
    np.put_along_axis(classes, number, ascending, 1)
    return columns, classes


def voters(point_set: PointSet, k: int, exact: bool = False) -> Iterator[Voters]:
    """Yield all points, which are labelled, with their `k` nearest others (capped at what is there), a block at a time.

    The index answers, as it does searches, or a comparison with every vector where `exact` is asked for.

    Raises:
        CollectionEmpty: there are fewer than two points.
    """
    if len(point_set) < LEAST_VOTERS:
        raise CollectionEmpty("at least two labelled points are needed to try the vote; put more points with labels.")
    counts = np.bincount(point_set.labels, minlength=len(point_set.names))
    for start, scores, positions in point_set.neighbours(k, exact):
        yield Voters(point_set, counts, start, scores, positions)
