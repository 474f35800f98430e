import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from backbone.errors import DirectoryLocked
from backbone.vote import knn_accuracy
from service.analysis.grouping import Recipe
from service.analysis.voting import Voting
from service.errors import (
    CollectionConflict,
    CollectionEmpty,
    CollectionMissing,
    CursorInvalid,
    DimensionMismatch,
    DuplicateId,
    FilterInvalid,
    FingerprintMismatch,
    InvalidId,
    InvalidLabel,
    InvalidName,
    InvalidPayload,
    InvalidVector,
    LibraryInvalid,
    PointConflict,
    PointMissing,
    StorageFailed,
)
from service.library.library import Collection, Library
from service.library.search import SearchOptions
from service.points import NewPoint, Source, hash_vector
from service.store.cursors import write_cursor
from service.store.database import DATABASE_NAME
from service.store.filters import parse_filter

D = 8
IS_CAT = parse_filter({"must": [{"key": "label", "match": {"value": "cat"}}]})


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "data") as library:
        yield library


@pytest.fixture
def collection(library: Library) -> Collection:
    return library.create("pets", "f" * 64, D)[0]


def vectors(count: int, seed: int = 0) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(count, D))


def new(id_: str, vector: npt.ArrayLike, **fields: Any) -> NewPoint:  # noqa: ANN401 - NewPoint's own fields
    return NewPoint(id_, hash_vector(vector), vector, **fields)


def fill(collection: Collection, count: int) -> npt.NDArray[np.float64]:
    """Put points p00, p01, ... with labels cat and dog in turn; return their vectors."""
    x = vectors(count)
    collection.put([new(f"p{i:02}", x[i], label=("cat", "dog")[i % 2], payload={"n": i}) for i in range(count)])
    return x


def test_a_collection_is_created_once_and_bound_to_its_model(library: Library) -> None:
    made, created = library.create("pets", "model-a", D)
    assert (created, made.name, made.fingerprint, made.dimension, made.keep) == (
        True,
        "pets",
        "model-a",
        D,
        "thumbnail",
    )
    assert library.create("pets", "model-a", D) == (made, False)
    assert library.create("pets", "model-a", D, keep="thumbnail") == (made, False)
    with pytest.raises(FingerprintMismatch, match="model-b"):
        library.create("pets", "model-b", D)
    with pytest.raises(CollectionConflict, match="thumbnail"):
        library.create("pets", "model-a", D, keep="image")
    with pytest.raises(CollectionConflict, match="dimensions"):
        library.create("pets", "model-a", D + 1)
    assert library.collections() == [made]


def test_a_name_outside_the_rule_and_a_missing_collection_are_refused(library: Library) -> None:
    with pytest.raises(InvalidName):
        library.create("../x", "f", D)
    for name in ("absent", "'; --", "", "\ud800"):
        with pytest.raises(CollectionMissing):
            library.collection(name)
    with pytest.raises(CollectionMissing):
        library.drop("absent")


def test_a_dropped_collection_is_gone_and_its_name_is_free(library: Library, collection: Collection) -> None:
    x = fill(collection, 10)
    library.drop("pets")
    for use in (lambda: collection.query(x[:1], 5), lambda: collection.put([]), lambda: collection.point("p00")):
        with pytest.raises(CollectionMissing):
            use()
    with pytest.raises(CollectionMissing):
        library.collection("pets")
    again, created = library.create("pets", "another", D + 2)
    assert created
    assert again.count() == 0
    assert again.put([new("p00", np.ones(D + 2))])[0].status == "created"


def test_what_a_dropped_collection_left_is_cleared_away(tmp_path: Path) -> None:
    with Library.open(tmp_path) as library:
        kept, dropped = library.create("kept", "f", D)[0], library.create("dropped", "f", D)[0]
        x = vectors(5000)
        dropped.put([new(str(i), x[i], picture=b"x" * 500) for i in range(5000)])
        fill(kept, 5)
        dropped.cluster(Recipe("kmeans", 3), lambda _: None)
        library.drop("dropped")
    with Library.open(tmp_path) as library:
        assert library.collection("kept").count() == 5
        for i in range(20):  # each write waits for the steps queued before it
            library.collection("kept").update("p00", payload={"n": i})
        with library._database.snapshot() as connection:
            for table, left in (("points", 5), ("vectors", 5), ("pictures", 0), ("members", 0), ("clusters", 0)):
                assert connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == left


def test_two_libraries_cannot_hold_one_directory(tmp_path: Path) -> None:
    with Library.open(tmp_path), pytest.raises(DirectoryLocked):
        Library.open(tmp_path)
    Library.open(tmp_path).close()


def test_a_refused_open_lets_go_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / DATABASE_NAME).write_bytes(b"something else" * 1000)
    for _ in range(2):
        with pytest.raises(LibraryInvalid):
            Library.open(tmp_path)


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    with Library.open(tmp_path) as library:
        collection = library.create("pets", "f", D, keep="image")[0]
        x = fill(collection, 20)
        collection.put([new("q", x[3] + 1, picture=b"jpeg", source=Source("q.png", 4, 5))])
        collection.delete(ids=["p03"])
        before = collection.query(x, 20, SearchOptions(with_vector=True))
    with Library.open(tmp_path) as library:
        collection = library.collection("pets")
        assert (collection.fingerprint, collection.dimension, collection.keep) == ("f", D, "image")
        after = collection.query(x, 20, SearchOptions(with_vector=True))
        for b, a in zip(before, after, strict=True):
            assert [(h.id, h.score, h.label, h.payload) for h in b] == [(h.id, h.score, h.label, h.payload) for h in a]
        assert collection.picture("q") == b"jpeg"
        assert collection.stored()["q"].source == Source("q.png", 4, 5)


def test_a_closed_library_says_so(tmp_path: Path) -> None:
    library = Library.open(tmp_path)
    collection = library.create("pets", "f", D)[0]
    states = [library.writable]
    library.close()
    library.close()
    assert [*states, library.writable] == [True, False]
    for use in (lambda: collection.put([new("a", np.ones(D))]), lambda: collection.query([np.ones(D)], 1)):
        with pytest.raises(StorageFailed, match="closed"):
            use()


def test_a_put_is_idempotent_and_other_content_needs_replace(collection: Collection) -> None:
    a, b = vectors(2)
    assert collection.put([new("x", a)])[0].status == "created"
    assert collection.put([new("x", a, label="cat")])[0].status == "unchanged"
    assert collection.point("x").label == "cat"
    assert isinstance(collection.put([new("x", b)])[0].error, PointConflict)
    assert collection.put([new("x", b)], replace=True)[0].status == "replaced"
    assert collection.put([]) == []
    hit = collection.query([b], 5)[0]
    assert [h.id for h in hit] == ["x"]
    assert hit[0].score == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (new("b", np.full(D, np.nan)), InvalidVector),
        (new("b", np.zeros(D)), InvalidVector),
        (new("b", np.ones(D + 1)), DimensionMismatch),
        (new("a", np.ones(D)), DuplicateId),
        (new("", np.ones(D)), InvalidId),
        (new("b", np.ones(D), label=""), InvalidLabel),
        (new("b", np.ones(D), payload={"a": float("nan")}), InvalidPayload),
    ],
)
def test_one_invalid_point_refuses_the_whole_put(collection: Collection, bad: NewPoint, error: type[Exception]) -> None:
    with pytest.raises(error):
        collection.put([new("a", np.ones(D)), bad])
    assert collection.count() == 0
    assert collection.put([new("a", np.ones(D))])[0].status == "created"


def test_an_invalid_vector_is_named_by_its_place_in_the_request(collection: Collection) -> None:
    believed = NewPoint("a", b"x", None)
    with pytest.raises(InvalidVector, match="vector 2 "):
        collection.put([believed, new("b", np.ones(D)), new("c", np.zeros(D))])


def test_labels_and_payloads_are_updated_apart(collection: Collection) -> None:
    collection.put([new("x", np.ones(D), label="cat", payload={"n": 1})])
    assert collection.update("x", label=None).payload == {"n": 1}
    assert collection.update("x", payload={"n": 2}).label is None
    assert collection.point("x").payload == {"n": 2}
    assert collection.query([np.ones(D)], 1, SearchOptions(IS_CAT)) == [[]]
    collection.update("x", label="cat")
    assert len(collection.query([np.ones(D)], 1, SearchOptions(IS_CAT))[0]) == 1
    with pytest.raises(PointMissing):
        collection.update("absent", label="cat")
    with pytest.raises(InvalidLabel):
        collection.update("x", label="")


def test_points_are_deleted_by_id_and_by_filter(collection: Collection) -> None:
    fill(collection, 10)
    assert collection.delete(ids=["p00", "p01", "absent", "\ud800", "p00"]) == 2
    assert collection.delete(filter=IS_CAT) == 4
    assert collection.count() == 4
    assert collection.delete(ids=[]) == 0
    with pytest.raises(FilterInvalid):
        collection.delete()
    with pytest.raises(FilterInvalid):
        collection.delete(ids=[], filter=IS_CAT)


def test_a_missing_point_is_missing_whatever_its_id(collection: Collection) -> None:
    with pytest.raises(PointMissing):
        collection.point("absent")
    with pytest.raises(PointMissing):
        collection.picture("absent")
    with pytest.raises(InvalidId):
        collection.point("\0")


def test_pictures_are_kept_as_the_collection_says(library: Library) -> None:
    for keep, kept in (("none", None), ("thumbnail", b"jpeg"), ("image", b"jpeg")):
        collection = library.create(keep, "f", D, keep=keep)[0]  # type: ignore[arg-type]
        collection.put([new("x", np.ones(D), picture=b"jpeg"), new("y", -np.ones(D))])
        assert collection.picture("x") == kept
        assert collection.picture("y") is None


def test_what_is_stored_is_known_by_hash_and_source(collection: Collection) -> None:
    a = np.ones(D)
    collection.put([new("x", a, source=Source("x.png", 1, 2)), new("y", a)])
    assert collection.stored(["x", "absent"]) == {"x": collection.stored()["x"]}
    assert collection.stored(["y"])["y"].content_hash == hash_vector(a)
    assert collection.stored(["y"])["y"].source is None
    assert list(collection.stored()) == ["x", "y"]


def test_a_scroll_lists_each_point_once_in_the_order_of_ids(collection: Collection) -> None:
    ids = [f"{i:03}" for i in range(25)] + ["a/b.png", "é", "🙂"]
    x = vectors(len(ids))
    collection.put([new(id_, v) for id_, v in zip(reversed(ids), x, strict=True)])
    for limit in (1, 7, len(ids) - 1, len(ids), 1000):
        listed, cursor, pages = [], None, 0
        while pages == 0 or cursor is not None:
            page, cursor = collection.scroll(limit, cursor)
            listed += [p.id for p in page]
            pages += 1
        assert listed == sorted(ids)
        assert pages == -(-len(ids) // limit)
    assert collection.scroll(1, with_vector=True)[0][0].vector is not None


def test_a_scroll_goes_on_past_points_that_were_deleted_or_replaced_meanwhile(collection: Collection) -> None:
    fill(collection, 10)
    page, cursor = collection.scroll(3)
    collection.delete(ids=[page[-1].id, "p05"])
    collection.put([new("p00", -np.ones(D)), new("p07", -np.ones(D))], replace=True)
    rest, end = collection.scroll(10, cursor)
    assert [p.id for p in rest] == ["p03", "p04", "p06", "p07", "p08", "p09"]
    assert end is None


def test_a_scroll_obeys_a_filter(collection: Collection) -> None:
    fill(collection, 10)
    page, cursor = collection.scroll(3, filter=IS_CAT)
    rest, end = collection.scroll(3, cursor, filter=IS_CAT)
    assert [p.id for p in page + rest] == ["p00", "p02", "p04", "p06", "p08"]
    assert end is None
    assert collection.count(IS_CAT) == 5


def test_a_foreign_or_garbled_cursor_is_refused(library: Library, collection: Collection) -> None:
    fill(collection, 10)
    other = library.create("other", "f", D)[0]
    fill(other, 10)
    cursor = collection.scroll(2)[1]
    assert cursor is not None
    with pytest.raises(CursorInvalid, match="another listing"):
        other.scroll(2, cursor)
    garbled = [cursor[:-1], cursor[:8] + "A" + cursor[9:], "", "x", "é", "\0", "=" * 10, "A" * 5000, cursor + "A"]
    forged = [write_cursor(f"points of {collection.number}", bad) for bad in ("", "a\0", [1.0])]
    for bad in [*garbled, *forged]:
        if bad != cursor:
            with pytest.raises(CursorInvalid):
                collection.scroll(2, bad)


def test_a_query_finds_the_nearest_by_cosine(collection: Collection) -> None:
    x = fill(collection, 50)
    queries = vectors(30, seed=1)
    cosine = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        x / np.linalg.norm(x, axis=1, keepdims=True)
    ).T
    for hits, expected in zip(collection.query(queries, 10), cosine, strict=True):
        order = np.argsort(-expected)[:10]
        assert [h.id for h in hits] == [f"p{i:02}" for i in order]
        np.testing.assert_allclose([h.score for h in hits], expected[order], atol=1e-6)
        assert [h.payload for h in hits] == [{"n": i} for i in order]


def test_a_query_obeys_its_options(collection: Collection) -> None:
    x = fill(collection, 20)
    everything = collection.query(x[:1], 1000)[0]
    assert len(everything) == 20
    assert all(-1 <= h.score <= 1 for h in everything)
    middle = everything[10].score
    assert len(collection.query(x[:1], 1000, SearchOptions(score_threshold=middle))[0]) == 11
    assert {h.label for h in collection.query(x[:1], 5, SearchOptions(IS_CAT))[0]} == {"cat"}
    bare = collection.query(x[:1], 1, SearchOptions(with_payload=False))[0][0]
    assert (bare.payload, bare.vector) == (None, None)
    full = collection.query(x[:1], 1, SearchOptions(with_vector=True))[0][0]
    assert full.vector is not None
    np.testing.assert_allclose(full.vector, x[0] / np.linalg.norm(x[0]), atol=1e-6)
    without = collection.query(x[:2], 19, SearchOptions(exclude=["p00", None]))
    assert [len(h) for h in without] == [19, 19]
    assert "p00" not in {h.id for h in without[0]}
    assert "p01" in {h.id for h in without[1]}


def test_a_query_on_an_empty_collection_finds_nothing(collection: Collection) -> None:
    assert collection.query(vectors(2), 10) == [[], []]
    assert collection.query(vectors(2), 10, SearchOptions(IS_CAT, exclude=["a", None])) == [[], []]


def test_a_query_with_an_invalid_vector_is_refused(collection: Collection) -> None:
    fill(collection, 3)
    with pytest.raises(DimensionMismatch):
        collection.query([np.ones(D + 1)], 1)
    for bad in (np.zeros(D), np.full(D, np.inf), ["x"] * D):
        with pytest.raises(InvalidVector):
            collection.query([bad], 1)


def test_classification_equals_the_vote_of_training_and_evaluation(collection: Collection) -> None:
    rng = np.random.default_rng(0)
    centres, truth = rng.normal(size=(4, D)), rng.integers(4, size=260)
    x = (centres[truth] + rng.normal(size=(260, D))).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    names = ["ant", "bee", "cat", "dog"]
    collection.put([new(str(i), x[i], label=names[truth[i]]) for i in range(200)])
    collection.put([new(f"unlabelled {i}", x[i] + 0.001) for i in range(200)])  # must not vote
    answers = collection.classify(x[200:], k=20, voting=Voting(temperature=0.07))
    accuracy = np.mean([a.label == names[t] for a, t in zip(answers, truth[200:], strict=True)])
    assert accuracy == knn_accuracy(x[:200], truth[:200], x[200:], truth[200:], k=20)
    for answer in answers:
        assert len(answer.neighbours) == 20
        assert sum(c.probability for c in answer.classes) == pytest.approx(1)
        assert answer.classes[0].label == answer.label
        assert answer.probability == max(c.probability for c in answer.classes)


def test_a_vote_below_reject_below_names_no_class(collection: Collection) -> None:
    fill(collection, 10)
    answer = collection.classify([np.ones(D)], k=10, voting=Voting(temperature=10.0))[0]
    assert answer.label is not None
    rejected = collection.classify(
        [np.ones(D)], k=10, voting=Voting(temperature=10.0), reject_below=answer.probability + 0.01
    )[0]
    assert (rejected.label, rejected.probability, rejected.classes) == (None, answer.probability, answer.classes)
    at = collection.classify([np.ones(D)], k=10, voting=Voting(temperature=10.0), reject_below=answer.probability)[0]
    assert at.label == answer.label


def test_classification_needs_a_labelled_point(collection: Collection) -> None:
    with pytest.raises(CollectionEmpty):
        collection.classify([np.ones(D)])
    collection.put([new("a", np.ones(D))])
    with pytest.raises(CollectionEmpty):
        collection.classify([np.ones(D)])
    collection.update("a", label="cat")
    assert collection.classify([np.ones(D)], k=1000)[0].label == "cat"
    with pytest.raises(CollectionEmpty):
        collection.classify([np.ones(D)], filter=parse_filter({"must": [{"exists": "n"}]}))


def test_the_figures_of_a_collection_are_true(collection: Collection) -> None:
    fill(collection, 10)
    collection.put([new("x", np.ones(D))])
    collection.delete(ids=["p00"])
    stats = collection.stats()
    assert (stats.points, stats.labels, stats.labelled, stats.index, stats.measured_recall) == (10, 2, 9, "exact", None)
    assert stats.memory_bytes >= 10 * D * 4


def test_searches_beside_writers_miss_nothing_acknowledged_and_find_nothing_deleted(collection: Collection) -> None:
    """Replacing, deleting and adding go on while searches run; one point is replaced all the time and never missing."""
    x = vectors(400)
    collection.put([new("always", np.ones(D))])
    done, wrong, acknowledged, deleted = threading.Event(), list[set[str]](), set[str](), set[str]()

    def search() -> None:
        while not done.is_set():
            must, must_not = set(acknowledged), set(deleted)
            found = {h.id for h in collection.query([np.ones(D)], 1000)[0]}
            # what is deleted while the search runs may be missing; what was deleted before it may not be found
            if "always" not in found or (must - deleting) - found or must_not & found:
                wrong.append(found)

    deleting = {f"{i}" for i in range(0, 150, 3)}
    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(150):
        collection.put([new(f"{i}", x[i]), new("always", np.ones(D) + i / 1000)], replace=True)
        acknowledged.add(f"{i}")
        if f"{i}" in deleting:
            collection.delete(ids=[f"{i}"])
            deleted.add(f"{i}")
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong
