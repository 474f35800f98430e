"""Leave-one-out evaluation of the vote: how well it classifies all labelled points, for several k from one search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.analysis.point_set import UNLABELLED, PointSet
from service.analysis.progress import Progress
from service.analysis.voting import Labels, Voting, voters

BINS = 15  # of the calibration: the number of Guo et al.
LISTED_CLASSES = 1_000  # ImageNet's; a result stays some hundreds of kilobytes
LISTED_CELLS = 5_000  # of the confusion: five for each of a thousand classes

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClassScore:
    """How one class fares: `support` points bear its label; precision is None where it was never predicted."""

    label: str
    support: int
    precision: float | None
    recall: float
    f1: float


@dataclass(frozen=True)
class ConfusionCell:
    """`count` points with this label were predicted to be `predicted`; None where the index found no neighbour."""

    label: str
    predicted: str | None
    count: int


@dataclass(frozen=True)
class CalibrationBin:
    """The predictions with a probability in (lower, upper]: their mean probability and the share of right ones, None without any."""

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """`error` is the expected calibration error, from 0 to 1: how far probability and accuracy are apart, weighted by count.

    Guo, Pleiss, Sun & Weinberger 2017 (arXiv:1706.04599), equation 3, with 15 bins of equal width.
    """

    error: float
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True)
class Evaluation:
    """Leave-one-out over `points` labelled points of `classes` classes; accuracies from 0 to 1, by k as text.

    `best_k` has the highest accuracy, or the highest balanced accuracy where the vote was balanced; of equal ones the smallest.
    `per_class`, `confusion` and `calibration` are those of it. `per_class` begins with the most frequent classes and ends after
    LISTED_CLASSES of `classes`, `confusion` with the most frequent pairs after LISTED_CELLS of `confusion_cells` that are not zero.
    """

    points: int
    classes: int
    accuracy: dict[str, float]
    balanced_accuracy: dict[str, float]
    best_k: int
    per_class: tuple[ClassScore, ...]
    confusion: tuple[ConfusionCell, ...]
    confusion_cells: int
    calibration: Calibration


def evaluate(point_set: PointSet, ks: Sequence[int], voting: Voting, exact: bool, progress: Progress) -> Evaluation:
    """Classify every one of these points, which are labelled, by its `k` nearest others, for each of `ks`.

    Memory: 4 bytes for each point and k beside the neighbours of one block. `progress` may raise to stop the work.

    Raises:
        CollectionEmpty: there are fewer than two points.
    """
    predicted = np.empty((len(ks), len(point_set)), np.int32)
    calibrations = [_CalibrationCounts() for _ in ks]
    for block in voters(point_set, max(ks), exact):
        progress(block.start / len(point_set))
        for number, k in enumerate(ks):
            labels, probabilities = block.verdicts(k, voting).best()
            predicted[number, block.start : block.start + len(labels)] = labels
            calibrations[number].count(probabilities, labels == block.own)
    truth, classes = point_set.labels, len(point_set.names)
    accuracy = [float(np.mean(each == truth)) for each in predicted]
    balanced = [_balanced(truth, each, classes) for each in predicted]
    judged = balanced if voting.balance == "inverse" else accuracy
    best = min(range(len(ks)), key=lambda number: (-judged[number], ks[number]))
    cells, confusion = _confusion(point_set.names, truth, predicted[best])
    return Evaluation(
        points=len(point_set),
        classes=int(np.count_nonzero(np.bincount(truth, minlength=classes))),
        accuracy={str(k): value for k, value in zip(ks, accuracy, strict=True)},
        balanced_accuracy={str(k): value for k, value in zip(ks, balanced, strict=True)},
        best_k=ks[best],
        per_class=_per_class(point_set.names, truth, predicted[best]),
        confusion=confusion,
        confusion_cells=cells,
        calibration=calibrations[best].result(),
    )


class _CalibrationCounts:
    """Counts predictions into bins of their probability."""

    def __init__(self) -> None:
        self._edges = np.linspace(0.0, 1.0, BINS + 1)
        self._counts, self._right, self._confidence = np.zeros((3, BINS))

    def count(self, probabilities: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> None:
        bins = np.searchsorted(self._edges[1:-1], probabilities)
        self._counts += np.bincount(bins, minlength=BINS)
        self._right += np.bincount(bins, right, BINS)
        self._confidence += np.bincount(bins, probabilities, BINS)

    def result(self) -> Calibration:
        error = float(np.abs(self._right - self._confidence).sum() / self._counts.sum())
        bins = zip(
            self._edges[:-1].tolist(),
            self._edges[1:].tolist(),
            self._counts.astype(np.int64).tolist(),
            self._confidence.tolist(),
            self._right.tolist(),
            strict=True,
        )
        return Calibration(
            error,
            tuple(
                CalibrationBin(lower, upper, n, confidence / n if n else None, right / n if n else None)
                for lower, upper, n, confidence, right in bins
            ),
        )


def _counted(truth: Labels, predicted: npt.NDArray[np.int32], classes: int) -> tuple[Counts, Counts, Counts]:
    """Return for each class how many points bear it, how many were predicted to, and how many both."""
    support = np.bincount(truth, minlength=classes)
    given = np.bincount(predicted[predicted != UNLABELLED], minlength=classes)
    return support, given, np.bincount(truth[truth == predicted], minlength=classes)


def _balanced(truth: Labels, predicted: npt.NDArray[np.int32], classes: int) -> float:
    """Return the mean recall of the classes that have points."""
    support, _, right = _counted(truth, predicted, classes)
    return float(np.mean(right[support > 0] / support[support > 0]))


def _per_class(names: Sequence[str], truth: Labels, predicted: npt.NDArray[np.int32]) -> tuple[ClassScore, ...]:
    support, given, right = _counted(truth, predicted, len(names))
    there = np.flatnonzero(support)
    listed = there[np.argsort(-support[there], kind="stable")][:LISTED_CLASSES]
    figures = np.stack([listed, support[listed], given[listed], right[listed]], axis=1)
    return tuple(
        ClassScore(
            names[number], n, hits / predictions if predictions else None, hits / n, 2 * hits / (n + predictions)
        )
        for number, n, predictions, hits in figures.tolist()
    )


def _confusion(
    names: Sequence[str], truth: Labels, predicted: npt.NDArray[np.int32]
) -> tuple[int, tuple[ConfusionCell, ...]]:
    """Return how many pairs of label and prediction occur, and the most frequent of them."""
    width = len(names) + 1  # one column for no prediction
    pairs, counts = np.unique(truth * width + (predicted - UNLABELLED), return_counts=True)
    listed = np.argsort(-counts, kind="stable")[:LISTED_CELLS]
    cells = zip(*np.divmod(pairs[listed], width), counts[listed], strict=True)
    return len(pairs), tuple(
        ConfusionCell(names[label], None if column == 0 else names[column - 1], int(count))
        for label, column, count in cells
    )
