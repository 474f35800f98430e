"""The filter cache through the library's door: what it kept is brought up with every write."""

import time
from pathlib import Path
from unittest.mock import patch

import numpy as np

from service.library.library import Library
from service.library.search import SearchOptions
from service.points import NewPoint, Vector, hash_vector, unit_rows
from service.store.filters import parse_filter
from service.store.records import Records

D = 8


def vectors(count: int, seed: int = 0) -> Vector:
    return unit_rows(np.random.default_rng(seed).normal(size=(count, D)), D)


def test_filters_keep_up_with_writes(tmp_path: Path) -> None:
    """The same filter asked again and again between puts, deletes, updates, and a new main segment under it."""
    rng = np.random.default_rng(0)
    known: dict[str, tuple[Vector, str]] = {}
    condition = parse_filter({"must": [{"key": "label", "match": {"value": "even"}}]})
    with patch("service.index.planner.BUILD_POINTS", 200), Library.open(tmp_path) as library:
        collection = library.create("c", "f", D)[0]
        for step in range(60):
            x = vectors(20, seed=step)
            ids = [f"{int(i):05d}" for i in rng.choice(600, 20, replace=False)]
            labels = ["even" if rng.random() < 0.5 else "odd" for _ in ids]
            collection.put(
                [NewPoint(i, hash_vector(v), v, la) for i, v, la in zip(ids, x, labels, strict=True)], replace=True
            )
            known |= {i: (v, la) for i, v, la in zip(ids, x, labels, strict=True)}
            gone = [str(i) for i in rng.choice(sorted(known), 5, replace=False)]
            collection.delete(ids=gone)
            for id_ in gone:
                del known[id_]
            changed = str(rng.choice(sorted(known)))
            collection.update(changed, label="even")
            known[changed] = (known[changed][0], "even")
            query = vectors(1, seed=1000 + step)
            even = {i: float(query[0] @ v) for i, (v, la) in known.items() if la == "even"}
            hits = collection.query(query, 10, SearchOptions(condition))[0]
            assert [h.id for h in hits] == sorted(even, key=lambda i: -even[i])[:10]
        until = time.monotonic() + 60
        while collection.stats().building:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert collection.stats().tail < len(known)


def test_filters_that_python_calls_equal_select_what_each_says(tmp_path: Path) -> None:
    x = vectors(2)
    with Library.open(tmp_path) as library:
        collection = library.create("c", "f", D)[0]
        collection.put(
            [NewPoint("one", b"1", x[0], payload={"n": 1}), NewPoint("true", b"2", x[1], payload={"n": True})]
        )
        for value, id_ in ((1, "one"), (True, "true"), (1.0, "one")):
            condition = parse_filter({"must": [{"key": "n", "match": {"value": value}}]})
            assert [h.id for h in collection.query(x[:1], 5, SearchOptions(condition))[0]] == [id_]


def test_a_filter_is_asked_of_the_rows_that_changed_and_of_all_again_when_too_many_did(tmp_path: Path) -> None:
    x, condition = vectors(50), parse_filter({"must": [{"exists": "label"}]})
    points = [NewPoint(f"{i:02d}", hash_vector(v), v, "cat" if i % 2 else None) for i, v in enumerate(x)]
    with Library.open(tmp_path) as library:
        collection = library.create("c", "f", D)[0]
        collection.put(points[:40])

        def asked() -> list[str]:
            with (
                patch.object(Records, "matching", autospec=True, side_effect=Records.matching) as all_rows,
                patch.object(Records, "matching_among", autospec=True, side_effect=Records.matching_among) as changed,
            ):
                [hits] = collection.query(x[:1], 50, SearchOptions(condition))
            assert {hit.id for hit in hits} == {p.id for p in collection.scroll(50, filter=condition)[0]}
            return ["all"] * all_rows.call_count + ["changed"] * changed.call_count

        assert asked() == ["all"]
        assert asked() == []
        collection.put(points[40:42])
        assert asked() == ["changed"]
        with patch("service.library.filter_cache.KEPT_CHANGES", 1):
            collection.put(points[42:])
        assert asked() == ["all"]
