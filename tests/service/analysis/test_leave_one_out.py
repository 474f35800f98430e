"""Leave-one-out: the figures against scikit-learn and plain Python."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, precision_recall_fscore_support

from backbone.vote import Weighting
from service.analysis import leave_one_out
from service.analysis.label_issues import find_label_issues
from service.analysis.leave_one_out import BINS, Evaluation, evaluate
from service.analysis.point_set import PointSet
from service.analysis.voting import Balance, Voting
from service.errors import CollectionEmpty, JobCancelled
from service.index.vector_index import VectorIndex
from service.library.library import Collection
from service.points import NewPoint, hash_vector

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
WAYS: list[tuple[Weighting, Balance]] = [
    ("softmax", "none"),
    ("softmax", "inverse"),
    ("distance", "none"),
    ("uniform", "inverse"),
]


def nothing(_: float) -> None:
    """Take no notice of progress."""


def holding(x: Floats, labels: Labels) -> PointSet:
    """Hold vectors [B, D] under labels [B], numbers of names in the order of the alphabet."""
    index = VectorIndex(x.shape[1], 1)
    rows = np.arange(1, len(x) + 1)
    index.add(rows, x)
    return PointSet(rows, labels, tuple(f"{n:04}" for n in range(int(labels.max()) + 1)), index.view())


@pytest.mark.parametrize(("weighting", "balance"), WAYS)
def test_leave_one_out_asks_each_point_what_classify_answers_for_it(
    collection: Collection, weighting: Weighting, balance: Balance
) -> None:
    collection.put([NewPoint("none", hash_vector([1.0] * 64), [1.0] * 64)])  # without a label it neither asks nor votes
    voting = Voting(0.1, weighting, balance)
    found = evaluate(collection.point_set().labelled(), [3, 20], voting, True, nothing)
    right: Counter[str] = Counter()
    pairs: Counter[tuple[str, str | None]] = Counter()
    for i in range(300):
        point = collection.point(f"{i:03}", with_vector=True)
        assert point.vector is not None
        for k in (3, 20):
            [answer] = collection.classify(
                [point.vector], k, Voting(0.1, weighting, balance), exclude=[point.id], exact=True
            )
            right[str(k)] += answer.label == point.label
            if k == found.best_k:
                pairs[str(point.label), answer.label] += 1
    assert found.points == 300
    assert found.accuracy == {k: right[k] / 300 for k in ("3", "20")}
    assert {(cell.label, cell.predicted): cell.count for cell in found.confusion} == pairs


def predictions(found: Evaluation, labels: Labels) -> tuple[Labels, Labels]:
    """Return true and predicted labels, as many of each pair as the confusion says."""
    assert sum(cell.count for cell in found.confusion) == len(labels)
    pairs = [(int(cell.label), int(str(cell.predicted))) for cell in found.confusion for _ in range(cell.count)]
    truth, predicted = np.array(pairs).T
    assert np.array_equal(np.sort(truth), np.sort(labels))
    return truth, predicted


@pytest.mark.parametrize(("weighting", "balance"), WAYS)
def test_the_figures_of_the_predictions_are_scikit_learn_s(
    some_digits: tuple[Floats, Labels], weighting: Weighting, balance: Balance
) -> None:
    x, labels = some_digits
    found = evaluate(holding(x, labels), [30], Voting(0.07, weighting, balance), True, nothing)
    truth, predicted = predictions(found, labels)
    assert found.accuracy["30"] == pytest.approx(np.mean(truth == predicted))
    assert found.balanced_accuracy["30"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    matrix = confusion_matrix(truth, predicted)
    assert found.confusion_cells == len(found.confusion) == np.count_nonzero(matrix)
    assert all(matrix[int(cell.label), int(str(cell.predicted))] == cell.count for cell in found.confusion)
    counts = [cell.count for cell in found.confusion]
    assert counts == sorted(counts, reverse=True)
    table = zip(*precision_recall_fscore_support(truth, predicted), strict=True)
    expected = {f"{label:04}": figures for label, figures in enumerate(table)}
    for each in found.per_class:
        figures = each.precision, each.recall, each.f1, each.support
        assert figures == pytest.approx(expected[each.label])
    supports = [each.support for each in found.per_class]
    assert (len(supports), supports) == (found.classes, sorted(supports, reverse=True))


def test_several_k_from_one_search_are_what_each_k_alone_gives(some_digits: tuple[Floats, Labels]) -> None:
    point_set = holding(*some_digits)
    ks = [40, 1, 7, 1000]
    together = evaluate(point_set, ks, Voting(), True, nothing)
    alone = {str(k): evaluate(point_set, [k], Voting(), True, nothing) for k in ks}
    assert together.accuracy == {k: each.accuracy[k] for k, each in alone.items()}
    assert together.balanced_accuracy == {k: each.balanced_accuracy[k] for k, each in alone.items()}
    best = alone[str(together.best_k)]
    assert (together.per_class, together.confusion, together.calibration) == (
        best.per_class,
        best.confusion,
        best.calibration,
    )


def test_the_best_k_is_the_smallest_of_those_with_the_best_figure(some_digits: tuple[Floats, Labels]) -> None:
    x, labels = some_digits
    plain = evaluate(holding(x, labels), [200, 30, 3], Voting(1.0), True, nothing)
    assert plain.best_k == max((200, 30, 3), key=lambda k: plain.accuracy[str(k)])
    clear = np.eye(4, dtype=np.float32)[np.arange(40) % 4]
    ties = evaluate(holding(clear, np.arange(40) % 4), [9, 2, 4], Voting(), True, nothing)
    assert set(ties.accuracy.values()) == {1.0}
    assert ties.best_k == 2
    # 90 of one class around 10 of another: alone, frequency wins everywhere; balanced, the rare ones are found at a price
    rng = np.random.default_rng(0)
    two = np.arange(200) >= 185
    x = rng.normal(size=(200, 8)) + 1.5 * np.eye(8)[two.astype(int)]
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    fair = evaluate(holding(x, two.astype(np.int64)), [1, 60], Voting(1.0, balance="inverse"), True, nothing)
    assert fair.accuracy["1"] > fair.accuracy["60"]
    assert fair.balanced_accuracy["1"] < fair.balanced_accuracy["60"]
    assert fair.best_k == 60


def test_the_calibration_error_is_the_definition_s(collection: Collection) -> None:
    found = evaluate(collection.point_set().labelled(), [15], Voting(0.5), True, nothing)
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for i in range(300):
        point = collection.point(f"{i:03}", with_vector=True)
        [answer] = collection.classify([point.vector], 15, Voting(0.5), exclude=[point.id], exact=True)  # type: ignore[list-item]
        number = next(n for n in range(BINS) if answer.probability <= (n + 1) / BINS)
        bins[number].append((answer.probability, answer.label == point.label))
    gaps = [abs(sum(p for p, _ in each) - sum(right for _, right in each)) for each in bins]
    assert found.calibration.error == pytest.approx(sum(gaps) / 300, abs=1e-5)
    assert [each.count for each in found.calibration.bins] == [len(each) for each in bins]
    for given_, expected in zip(found.calibration.bins, bins, strict=True):
        if expected:
            assert given_.confidence == pytest.approx(np.mean([p for p, _ in expected]), abs=1e-5)
            assert given_.accuracy == pytest.approx(np.mean([right for _, right in expected]))
            assert given_.lower < given_.confidence <= given_.upper + 1e-9
        else:
            assert (given_.confidence, given_.accuracy) == (None, None)


def test_a_vote_that_is_always_sure_and_always_right_has_no_calibration_error() -> None:
    clear = np.eye(4, dtype=np.float32)[np.arange(40) % 4]
    right = evaluate(holding(clear, np.arange(40) % 4), [3], Voting(), True, nothing).calibration
    assert right.error == 0.0
    assert (right.bins[-1].count, right.bins[-1].accuracy, right.bins[-1].upper) == (40, 1.0, 1.0)
    wrong = evaluate(holding(clear, np.arange(40)), [3], Voting(), True, nothing).calibration
    assert wrong.error == pytest.approx(1 / 3)  # each of three votes has a label of its own, and none is right
    [at_its_edge] = [each for each in wrong.bins if each.count]
    assert (at_its_edge.count, at_its_edge.upper) == (40, 1 / 3)  # an edge belongs to the bin below it


def test_a_class_that_is_never_predicted_has_no_precision() -> None:
    x = np.eye(4, dtype=np.float32)[[0, 0, 0, 0]]
    found = evaluate(holding(x, np.array([0, 0, 0, 1])), [3], Voting(), True, nothing)
    assert [(each.label, each.precision, each.recall, each.f1) for each in found.per_class] == [
        ("0000", 0.75, 1.0, pytest.approx(6 / 7)),
        ("0001", None, 0.0, 0.0),
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 60), st.integers(1, 12))
def test_any_set_gives_figures_that_fit_together(seed: int, points: int, k: int, classes: int) -> None:
    generator = np.random.default_rng(seed)
    x = generator.choice([-0.5, 0.5], size=(points, 4)).astype(np.float32)  # many equal vectors
    labels = generator.integers(0, classes, points)
    found = evaluate(holding(x, labels), [k], Voting(), True, nothing)
    assert sum(each.support for each in found.per_class) == points
    hits = sum(cell.count for cell in found.confusion if cell.label == cell.predicted)
    assert found.accuracy[str(k)] == pytest.approx(hits / points)
    assert found.balanced_accuracy[str(k)] == pytest.approx(np.mean([each.recall for each in found.per_class]))
    assert 0 <= found.calibration.error <= 1
    assert sum(each.count for each in found.calibration.bins) == points


def test_long_tables_end_at_their_limit_and_say_so(
    some_digits: tuple[Floats, Labels], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(holding(*some_digits), [30], Voting(), True, nothing)
    monkeypatch.setattr(leave_one_out, "LISTED_CLASSES", 3)
    monkeypatch.setattr(leave_one_out, "LISTED_CELLS", 12)
    short = evaluate(holding(*some_digits), [30], Voting(), True, nothing)
    assert (short.per_class, short.classes) == (whole.per_class[:3], 10)
    assert (short.confusion, short.confusion_cells) == (whole.confusion[:12], len(whole.confusion))
    assert short.accuracy == whole.accuracy


def test_thousands_of_classes_are_counted_as_a_few_are() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(4000) // 2
    x = np.repeat(generator.normal(size=(2000, 16)), 2, axis=0) + 0.01 * generator.normal(size=(4000, 16))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    found = evaluate(holding(x, labels), [1, 50], Voting(), True, nothing)
    assert found.accuracy["1"] > 0.95
    assert (found.classes, len(found.per_class)) == (2000, 1000)
    assert found.per_class[0].label == "0000"  # equally frequent ones by name


def test_a_point_without_neighbours_counts_as_wrong(
    some_digits: tuple[Floats, Labels], monkeypatch: pytest.MonkeyPatch
) -> None:
    found_all = PointSet.neighbours

    def neighbours(self: PointSet, k: int, exact: bool = False) -> Iterator[tuple[int, Floats, Labels]]:
        for start, scores, positions in found_all(self, k, exact):
            if start == 0:
                scores[:7], positions[:7] = -np.inf, -1  # as an index that finds nothing under a filter
                scores[7, 1:], positions[7, 1:] = -np.inf, -1
            yield start, scores, positions

    x, labels = some_digits
    monkeypatch.setattr(PointSet, "neighbours", neighbours)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate(holding(x[:100], labels[:100]), [5], Voting(balance="inverse"), True, nothing)
        issues = find_label_issues(holding(x[:100], labels[:100]), 5, 100, Voting(), True, nothing)
    assert sum(cell.count for cell in found.confusion if cell.predicted is None) == 7
    assert found.calibration.bins[0].count == 7
    assert found.calibration.bins[0].confidence == 0.0
    assert not {issue.row for issue in issues.issues} & set(range(1, 8))


@pytest.mark.parametrize("points", [0, 1])
def test_at_least_two_points_are_needed(points: int) -> None:
    point_set = holding(np.eye(2, dtype=np.float32), np.array([0, 1])).subset(np.arange(points))
    with pytest.raises(CollectionEmpty, match="two labelled points"):
        evaluate(point_set, [1], Voting(), True, nothing)
    with pytest.raises(CollectionEmpty, match="two labelled points"):
        find_label_issues(point_set, 1, 1, Voting(), True, nothing)


def test_two_points_judge_each_other() -> None:
    point_set = holding(np.eye(2, dtype=np.float32), np.array([0, 1]))
    assert evaluate(point_set, [1, 1000], Voting(), True, nothing).accuracy == {"1": 0.0, "1000": 0.0}
    assert find_label_issues(point_set, 1000, 1000, Voting(), True, nothing).suspected == 2


def test_progress_runs_from_0_to_1_and_may_stop_the_work(some_digits: tuple[Floats, Labels]) -> None:
    point_set = holding(*some_digits)
    seen: list[float] = []
    evaluate(point_set, [5], Voting(), True, seen.append)
    assert seen
    assert seen == sorted(seen)
    assert 0 <= seen[0] <= seen[-1] <= 1

    def cancel(_: float) -> None:
        raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        evaluate(point_set, [5], Voting(), True, cancel)
