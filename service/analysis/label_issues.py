"""Label issues, labels that may be wrong: points whose nearest labelled others vote for another label.

Ranked by self-confidence, the probability that the leave-one-out vote gives to the label that the point has, least first; a point is
suspected where another label is more probable (the predicted label is not the given one). Both after Northcutt, Jiang & Chuang 2021
(arXiv:1911.00068, section 3), whose out-of-sample probabilities the vote supplies here without training anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.analysis.point_set import NO_NEIGHBOUR, UNLABELLED, PointSet
from service.analysis.progress import Progress
from service.analysis.voting import Labels, Voters, Voting, voters
from service.points import Vector

EVIDENCE = 10  # neighbours shown with a suspect: a row of thumbnails


@dataclass(frozen=True)
class Witness:
    """A neighbour of a suspected point, by row."""

    row: int
    score: float
    label: str


@dataclass(frozen=True)
class LabelIssue:
    """A point, by row, whose label its neighbours outvote; they are the nearest EVIDENCE of those that voted."""

    row: int
    label: str
    suggested: str
    probability: float
    suggested_probability: float
    neighbours: tuple[Witness, ...]


@dataclass(frozen=True)
class LabelIssues:
    """The most suspicious points first; `suspected` of the `checked` points are in all."""

    issues: tuple[LabelIssue, ...]
    suspected: int
    checked: int


def find_label_issues(
    point_set: PointSet, k: int, limit: int, voting: Voting, exact: bool, progress: Progress
) -> LabelIssues:
    """Return the `limit` most suspicious of these points, which are labelled. `progress` may raise to stop the work.

    Raises:
        CollectionEmpty: there are fewer than two points.
    """
    worst: _Suspects | None = None
    suspected = 0
    for block in voters(point_set, k, exact):
        progress(block.start / len(point_set))
        found = _suspects(block, k, voting)
        suspected += len(found.positions)
        worst = (found if worst is None else worst.joined(found)).first(limit)
    return LabelIssues(() if worst is None else worst.issues(point_set), suspected, len(point_set))


@dataclass(frozen=True)
class _Suspects:
    """n suspected points: positions, suggested [n]: labels; probabilities of their own labels and of the suggested ones [n].

    scores, near [n, EVIDENCE]: cosines and positions of their neighbours.
    """

    positions: Labels
    suggested: Labels
    own_probability: npt.NDArray[np.float64]
    suggested_probability: npt.NDArray[np.float64]
    scores: Vector
    near: Labels

    def joined(self, other: _Suspects) -> _Suspects:
        columns = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Suspects(*(np.concatenate(pair) for pair in columns))

    def first(self, limit: int) -> _Suspects:
        """Return the most suspicious: least probable own label, then most probable other one, then nearest neighbour."""
        keys = (self.positions, -self.scores[:, 0], -self.suggested_probability, self.own_probability)
        order = np.lexsort(keys)[:limit]
        return _Suspects(*(column[order] for column in vars(self).values()))

    def issues(self, point_set: PointSet) -> tuple[LabelIssue, ...]:
        names = point_set.names
        own = point_set.labels[self.positions]
        return tuple(
            LabelIssue(
                row=int(point_set.rows[self.positions[i]]),
                label=names[own[i]],
                suggested=names[self.suggested[i]],
                probability=float(self.own_probability[i]),
                suggested_probability=float(self.suggested_probability[i]),
                neighbours=tuple(
                    Witness(int(point_set.rows[at]), float(score), names[point_set.labels[at]])
                    for at, score in zip(self.near[i], self.scores[i], strict=True)
                    if at != NO_NEIGHBOUR
                ),
            )
            for i in range(len(self.positions))
        )


def _suspects(block: Voters, k: int, voting: Voting) -> _Suspects:
    verdicts = block.verdicts(k, voting)
    suggested, probabilities = verdicts.best()
    wrong = np.flatnonzero((suggested != block.own) & (suggested != UNLABELLED))
    return _Suspects(
        block.start + wrong,
        suggested[wrong],
        verdicts.of(block.own)[wrong],
        probabilities[wrong],
        block.scores[wrong, :EVIDENCE],
        block.positions[wrong, :EVIDENCE],
    )
