"""Label issues: labels that were put wrong on purpose, and the vote that each issue stands on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from service.analysis.label_issues import EVIDENCE, LabelIssues, find_label_issues
from service.analysis.point_set import PointSet
from service.analysis.voting import Voting
from service.errors import JobCancelled
from service.index.vector_index import VectorIndex
from service.library.library import Collection

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


def nothing(_: float) -> None:
    """Take no notice of progress."""


def holding(x: Floats, labels: Labels) -> PointSet:
    """Hold vectors [B, D] under labels [B], numbers of names in the order of the alphabet."""
    index = VectorIndex(x.shape[1], 1)
    rows = np.arange(1, len(x) + 1)
    index.add(rows, x)
    return PointSet(rows, labels, tuple(f"{n:04}" for n in range(int(labels.max()) + 1)), index.view())


def with_wrong_labels(x: Floats, labels: Labels, share: float) -> tuple[PointSet, set[int]]:
    """Hold points of which a share got another label, and the rows of those."""
    generator = np.random.default_rng(0)
    wrong = generator.permutation(len(x))[: int(share * len(x))]
    given_ = labels.copy()
    given_[wrong] = (labels[wrong] + generator.integers(1, 10, len(wrong))) % 10
    return holding(x, given_), set((wrong + 1).tolist())


@pytest.mark.parametrize(("share", "least"), [(0.02, 0.94), (0.05, 0.96), (0.1, 0.97)])
def test_labels_that_were_put_wrong_stand_at_the_top(
    all_digits: tuple[Floats, Labels], share: float, least: float
) -> None:
    x, labels = all_digits
    point_set, wrong = with_wrong_labels(x, labels, share)
    found = find_label_issues(point_set, 20, len(wrong), Voting(), True, nothing)
    rows = [issue.row for issue in found.issues]
    assert len(set(rows) & wrong) / len(wrong) >= least
    assert set(rows[: len(wrong) // 2]) <= wrong
    right = [issue.suggested == f"{labels[issue.row - 1]:04}" for issue in found.issues if issue.row in wrong]
    assert np.mean(right) > 0.97
    assert found.checked == len(x)
    assert len(wrong) < found.suspected < len(wrong) + 0.03 * len(x)


def test_an_issue_says_what_the_vote_says_and_shows_who_voted(collection: Collection) -> None:
    for id_, label in (("005", "9"), ("077", "0"), ("078", "1")):
        collection.update(id_, label=label)
    found = find_label_issues(collection.point_set().labelled(), 20, 1000, Voting(), True, nothing)
    points = collection.by_rows(np.array([issue.row for issue in found.issues]))
    suspected = {}
    for issue in found.issues:
        point = collection.point(points[issue.row].id, with_vector=True)
        [answer] = collection.classify([point.vector], exclude=[point.id], exact=True)  # type: ignore[list-item]
        shares = {each.label: each.probability for each in answer.classes}
        assert (issue.label, issue.suggested) == (point.label, answer.label)
        assert issue.probability == pytest.approx(shares.get(str(point.label), 0.0), abs=1e-5)
        assert issue.suggested_probability == pytest.approx(answer.probability, abs=1e-5)
        ids = [collection.by_rows(np.array([each.row]))[each.row].id for each in issue.neighbours]
        assert ids == [hit.id for hit in answer.neighbours[:EVIDENCE]]
        assert [each.label for each in issue.neighbours] == [hit.label for hit in answer.neighbours[:EVIDENCE]]
        scores = [hit.score for hit in answer.neighbours[:EVIDENCE]]
        assert [each.score for each in issue.neighbours] == pytest.approx(scores, abs=1e-6)
        suspected[point.id] = issue
    assert {"005", "077", "078"} <= suspected.keys()
    assert len(suspected) == found.suspected
    order = [(issue.probability, -issue.suggested_probability) for issue in found.issues]
    assert order == sorted(order)


def test_a_shorter_list_is_the_beginning_of_the_longer_one(
    all_digits: tuple[Floats, Labels], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, labels = all_digits
    point_set, _ = with_wrong_labels(x, labels, 0.05)

    def listed(limit: int) -> LabelIssues:
        return find_label_issues(point_set, 10, limit, Voting(), True, nothing)

    whole = listed(1000)
    in_one = PointSet.neighbours

    def in_parts(self: PointSet, k: int, exact: bool = False) -> Iterator[tuple[int, Floats, Labels]]:
        for start, scores, positions in in_one(self, k, exact):
            for part in range(0, len(scores), 100):  # the worst are kept from part to part
                yield start + part, scores[part : part + 100], positions[part : part + 100]

    monkeypatch.setattr(PointSet, "neighbours", in_parts)
    for limit in (1, 17, 1000):
        short = listed(limit)
        assert short.issues == whole.issues[:limit]
        assert (short.suspected, short.checked) == (whole.suspected, whole.checked)


def test_progress_runs_from_0_to_1_and_may_stop_the_work(some_digits: tuple[Floats, Labels]) -> None:
    point_set = holding(*some_digits)
    seen: list[float] = []
    find_label_issues(point_set, 5, 5, Voting(), True, seen.append)
    assert seen
    assert 0 <= seen[0] <= seen[-1] <= 1

    def cancel(_: float) -> None:
        raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        find_label_issues(point_set, 5, 5, Voting(), True, cancel)
