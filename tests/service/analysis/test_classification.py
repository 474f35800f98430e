"""The vote on new queries: weightings, class balance, and which points may vote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score

from backbone.vote import Weighting, weigh
from service.analysis.classification import classify
from service.analysis.voting import Voting
from service.errors import CollectionEmpty
from service.library.library import Collection, Library
from service.points import Classification, Hit, NewPoint, hash_vector
from service.store.filters import parse_filter

D = 8
Floats = NDArray[np.float64]
WEIGHTINGS: list[Weighting] = ["softmax", "distance", "uniform"]
EVEN = parse_filter({"must": [{"key": "even", "match": {"value": True}}]})


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with Library.open(tmp_path / "data", threads=1) as library:
        yield library.create("c", "f", D)[0]


def new(number: int, vector: Floats, label: str | None) -> NewPoint:
    return NewPoint(f"p{number:03}", hash_vector(vector), vector, label, {"even": number % 2 == 0})


def fill(collection: Collection, seed: int = 0) -> tuple[Floats, list[str | None]]:
    """Put 120 points: classes a (most), b (some) and c (few), every tenth without a label."""
    generator = np.random.default_rng(seed)
    labels = [None if i % 10 == 0 else "aaaabbaaac"[(i + i // 10) % 10] for i in range(120)]
    vectors = generator.normal(size=(120, D))
    collection.put([new(i, v, label) for i, (v, label) in enumerate(zip(vectors, labels, strict=True))])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), labels


def slow(
    query: Floats, vectors: Floats, labels: list[str | None], allowed: set[int], k: int, options: dict[str, Any]
) -> dict[str, float]:
    """The vote in plain Python, from the definition."""
    voters = [i for i in range(len(vectors)) if labels[i] is not None and i in allowed]
    sizes = Counter(labels[i] for i in voters)
    nearest = sorted(voters, key=lambda i: -float(query @ vectors[i]))[:k]
    weights = weigh(np.array([[query @ vectors[i] for i in nearest]]), weighting=options.get("weighting", "softmax"))
    votes: Counter[str] = Counter()
    for i, weight in zip(nearest, weights[0].tolist(), strict=True):
        label = labels[i]
        assert label is not None
        votes[label] += weight / (sizes[label] if options.get("balance") == "inverse" else 1)
    return {label: vote / sum(votes.values()) for label, vote in votes.items()}


def shares(answer: Classification) -> dict[str, float]:
    return {each.label: each.probability for each in answer.classes}


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("balance", ["none", "inverse"])
@pytest.mark.parametrize("filtered", [False, True])
def test_the_vote_is_the_one_that_its_definition_gives(
    collection: Collection, weighting: Weighting, balance: Literal["none", "inverse"], filtered: bool
) -> None:
    vectors, labels = fill(collection)
    queries = np.random.default_rng(1).normal(size=(12, D))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    allowed = set(range(0, 120, 2)) if filtered else set(range(120))
    answers = collection.classify(
        queries, 15, Voting(weighting=weighting, balance=balance), filter=EVEN if filtered else None, exact=True
    )
    for query, answer in zip(queries, answers, strict=True):
        expected = slow(query, vectors, labels, allowed, 15, {"weighting": weighting, "balance": balance})
        assert shares(answer) == pytest.approx(expected, abs=1e-4)  # cosines in float32, over 0.07
        assert answer.probability == max(shares(answer).values())


@pytest.mark.parametrize("filtered", [False, True])
def test_a_point_that_is_left_out_neither_votes_nor_counts(collection: Collection, filtered: bool) -> None:
    vectors, labels = fill(collection)
    allowed = set(range(0, 120, 2)) if filtered else set(range(120))
    for number in (3, 4, 10, 99):  # 3 and 99 are odd, 10 has no label
        [answer] = collection.classify(
            [vectors[number]],
            30,
            Voting(balance="inverse"),
            filter=EVEN if filtered else None,
            exclude=[f"p{number:03}"],
        )
        expected = slow(vectors[number], vectors, labels, allowed - {number}, 30, {"balance": "inverse"})
        assert shares(answer) == pytest.approx(expected, abs=1e-4)
        assert f"p{number:03}" not in {hit.id for hit in answer.neighbours}


def test_sizes_follow_what_is_written(collection: Collection) -> None:
    vectors, labels = fill(collection)
    query = vectors[7] + 0.1

    def found() -> dict[str, float]:
        return shares(collection.classify([query], 100, Voting(10.0, balance="inverse"))[0])

    before = found()
    for _ in range(2):  # the second time from what is kept
        assert found() == before
    collection.update("p007", label="c")
    changed = [*labels[:7], "c", *labels[8:]]
    after = found()
    unit = query / np.linalg.norm(query)
    sizes = Counter(label for label in changed if label is not None)
    nearest = sorted((i for i in range(120) if changed[i]), key=lambda i: -float(unit @ vectors[i]))[:100]
    votes: Counter[str] = Counter()
    for i in nearest:
        label = changed[i]
        assert label is not None
        votes[label] += float(np.exp(unit @ vectors[i] / 10.0)) / sizes[label]
    assert after == pytest.approx({label: vote / sum(votes.values()) for label, vote in votes.items()}, abs=1e-6)
    assert after != before


def test_filters_that_python_calls_equal_have_sizes_of_their_own(collection: Collection) -> None:
    rng = np.random.default_rng(1)
    for value, counts in ((1, {"cat": 2, "dog": 6}), (True, {"cat": 6, "dog": 2})):
        for label, count in counts.items():
            x = rng.normal(size=(count, collection.dimension))
            collection.put(
                [NewPoint(f"{value}-{label}-{i}", hash_vector(v), v, label, {"n": value}) for i, v in enumerate(x)]
            )
    query = rng.normal(size=(1, collection.dimension))

    def shares(value: float) -> list[float]:
        condition = parse_filter({"must": [{"key": "n", "match": {"value": value}}]})
        [answer] = collection.classify(query, 8, Voting(balance="inverse"), filter=condition)
        return [each.probability for each in answer.classes]

    alone = shares(True)
    collection.update("1-cat-0", payload={"n": 1, "other": 0})  # the sizes are counted anew
    shares(1)
    assert shares(True) == pytest.approx(alone)


def test_balance_raises_the_balanced_accuracy_of_a_skewed_set(collection: Collection) -> None:
    generator = np.random.default_rng(0)
    truth = np.array([0] * 400 + [1] * 40 + [2] * 10)

    def cloud(labels: NDArray[np.int64]) -> Floats:
        return 2.2 * np.eye(D)[labels] + generator.normal(size=(len(labels), D))

    names = ["common", "rare", "rarest"]
    collection.put([new(i, v, names[c]) for i, (v, c) in enumerate(zip(cloud(truth), truth, strict=True))])
    asked = np.repeat(np.arange(3), 100)
    queries = cloud(asked)
    scores = {}
    for balance in ("none", "inverse"):
        answers = collection.classify(queries, 50, Voting(balance=balance), exact=True)  # type: ignore[arg-type]
        scores[balance] = balanced_accuracy_score(asked, [names.index(str(each.label)) for each in answers])
    assert scores["none"] < 0.7
    assert scores["inverse"] > scores["none"] + 0.1


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_batch_is_classified_as_each_query_alone(data: st.DataObject) -> None:
    hit = st.builds(
        Hit, st.text(max_size=3), st.integers(-8, 8).map(lambda n: n / 8), st.sampled_from(["x", "y", "z", ""])
    )
    neighbours = [
        sorted(hits, key=lambda each: -each.score)
        for hits in data.draw(st.lists(st.lists(hit, min_size=1, max_size=6), min_size=1, max_size=5))
    ]
    weighting: Weighting = data.draw(st.sampled_from(WEIGHTINGS))
    sizes = [{"x": 100, "y": 3} for _ in neighbours]  # z and "" came later
    voting = Voting(weighting=weighting, balance="inverse")
    together = classify(neighbours, voting, sizes=sizes)
    alone = [classify([hits], voting, sizes=sizes[:1])[0] for hits in neighbours]
    for one, other in zip(together, alone, strict=True):
        # a class that the query has no neighbours of adds a zero, which may change the order of adding up, not the sum
        assert shares(one) == pytest.approx(shares(other), rel=1e-12)


def test_equal_votes_go_to_the_first_in_the_alphabet() -> None:
    hits = [Hit("1", 0.5, "b"), Hit("2", 0.5, "a"), Hit("3", 0.25, "c")]
    for weighting in WEIGHTINGS:
        [answer] = classify([hits], Voting(weighting=weighting))
        assert answer.label == "a"
        assert [each.label for each in answer.classes] == ["a", "b", "c"]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_label_is_refused_below_its_probability_only(weighting: Weighting) -> None:
    hits = [Hit("1", 0.9, "a"), Hit("2", 0.8, "b")]
    sure = classify([hits], Voting(weighting=weighting))[0]
    assert classify([hits], Voting(weighting=weighting), sure.probability)[0].label == "a"
    refused = classify([hits], Voting(weighting=weighting), float(np.nextafter(sure.probability, 2)))[0]
    assert (refused.label, refused.classes, refused.neighbours) == (None, sure.classes, sure.neighbours)


def test_the_only_labelled_point_cannot_be_classified_by_itself(collection: Collection) -> None:
    collection.put([new(0, np.ones(D), "a"), new(1, np.ones(D), None)])
    with pytest.raises(CollectionEmpty):
        collection.classify([np.ones(D)], voting=Voting(balance="inverse"), exclude=["p000"])
    assert collection.classify([np.ones(D)], voting=Voting(balance="inverse"), exclude=["p001"])[0].label == "a"
