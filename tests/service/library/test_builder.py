"""The builder of main segments, and their recovery at the start: read where they are proved good, and left where they are not."""

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import faiss
import numpy as np
import pytest

from service.errors import LibraryInvalid
from service.library.collection import Collection
from service.library.library import Library
from service.library.search import SearchOptions
from service.points import NewPoint, Vector, hash_vector, unit_rows
from service.store.database import DATABASE_NAME, INDEX_FOLDER
from service.store.filters import parse_filter

D, N = 8, 400


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    """Build a main segment for some hundred points, and an approximate index for a few more."""
    with (
        patch("service.index.planner.BUILD_POINTS", 200),
        patch("service.index.planner.EXACT_POINTS", 1_000),
        patch("service.index.vector_index.SEGMENT_BYTES", 4 * D * 64),
        patch("service.library.builder.RETRY_S", 0.0),
    ):
        yield


def vectors(count: int, seed: int = 0) -> Vector:
    return unit_rows(np.random.default_rng(seed).normal(size=(count, D)), D)


def put(collection: Collection, x: Vector, first: int = 0) -> None:
    points = [
        NewPoint(f"{first + i:05d}", hash_vector(v), v, "even" if i % 2 == 0 else "odd", {"n": first + i})
        for i, v in enumerate(x)
    ]
    for start in range(0, len(points), 100):
        collection.put(points[start : start + 100])


def settled(collection: Collection) -> Collection:
    until = time.monotonic() + 60
    while collection.stats().building:
        assert time.monotonic() < until
        time.sleep(0.02)
    return collection


def agrees(collection: Collection, known: dict[str, Vector]) -> None:
    """Check points, vectors, searches and filtered searches against the dictionary."""
    assert collection.count() == collection.stats().points == len(known)
    ids, bank = sorted(known), np.stack([known[i] for i in sorted(known)])
    queries = vectors(5, seed=99)
    order = np.argsort(-(queries @ bank.T), axis=1, kind="stable")
    for exact in (True, False):
        for hits, best in zip(
            collection.query(queries, 10, SearchOptions(exact=exact, with_vector=True)), order, strict=True
        ):
            assert [h.id for h in hits] == [ids[i] for i in best[:10]]
            for hit in hits:
                assert hit.vector is not None
                np.testing.assert_allclose(hit.vector, known[hit.id], atol=1e-6)
    low = [i for i in range(len(ids)) if int(ids[i]) < 50]
    low_numbers = parse_filter({"must": [{"key": "n", "range": {"lt": 50}}]})
    for hits, query in zip(collection.query(queries, 5, SearchOptions(low_numbers)), queries, strict=True):
        best = sorted(low, key=lambda i: -float(query @ bank[i]))[:5]
        assert [h.id for h in hits] == [ids[i] for i in best]


def index_folder(path: Path) -> Path:
    [collection] = (path / INDEX_FOLDER).iterdir()
    [generation] = collection.iterdir()
    return generation


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A closed library whose collection c has a main segment of 400 points and a tail of 50."""
    with Library.open(tmp_path) as library:
        collection = library.create("c", "f", D)[0]
        put(collection, vectors(N))
        settled(collection)
        put(collection, vectors(50, seed=1), first=N)
        assert library.collection("c").stats().tail < N
    return tmp_path


@pytest.fixture
def known() -> dict[str, Vector]:
    x = np.concatenate([vectors(N), vectors(50, seed=1)])
    return {f"{i:05d}": v for i, v in enumerate(x)}


def test_a_tail_that_has_grown_becomes_a_main_segment_and_answers_stay(tmp_path: Path) -> None:
    with Library.open(tmp_path) as library:
        collection = library.create("c", "f", D)[0]
        put(collection, vectors(200))
        assert not collection.stats().building
        assert collection.stats().tail == 200
        put(collection, vectors(1, seed=5), first=200)
        settled(collection)
        assert collection.stats().tail == 0
        agrees(collection, {f"{i:05d}": v for i, v in enumerate([*vectors(200), *vectors(1, seed=5)])})


def test_what_is_written_while_a_main_segment_is_built_is_there_when_it_is(tmp_path: Path) -> None:
    begun, go = threading.Event(), threading.Event()
    from service.index import segment_files

    write = segment_files.write

    def slow(*arguments: Any) -> segment_files.MainSegment:  # noqa: ANN401 - what it takes the place of
        begun.set()
        assert go.wait(30)
        return write(*arguments)

    x, later = vectors(300), vectors(80, seed=2)
    with Library.open(tmp_path) as library, patch("service.index.segment_files.write", slow):
        collection = library.create("c", "f", D)[0]
        put(collection, x)
        assert begun.wait(30)
        assert collection.delete(ids=[f"{i:05d}" for i in range(0, 300, 3)]) == 100
        put(collection, later, first=300)
        replaced = vectors(1, seed=3)
        collection.put([NewPoint("00001", b"new", replaced[0])], replace=True)
        known = {f"{i:05d}": v for i, v in enumerate([*x, *later]) if not (i < 300 and i % 3 == 0)} | {
            "00001": replaced[0]
        }
        assert collection.stats().building
        go.set()
        settled(collection)
        assert collection.stats().tail < 300
        agrees(collection, known)
        collection.delete(ids=["00002"])
        del known["00002"]
        agrees(collection, known)
    with Library.open(tmp_path) as library:
        agrees(library.collection("c"), known)


def test_tombstones_alone_are_reason_enough_to_build_anew(tmp_path: Path) -> None:
    x = vectors(500)
    with Library.open(tmp_path) as library:
        collection = library.create("c", "f", D)[0]
        put(collection, x)
        settled(collection)
        first = index_folder(tmp_path)
        collection.delete(ids=[f"{i:05d}" for i in range(250)])
        settled(collection)
        assert index_folder(tmp_path) != first
        agrees(collection, {f"{i:05d}": v for i, v in enumerate(x) if i >= 250})


def built(collection: Collection) -> int:
    """Return how many vectors the index of the main segment was first built over."""
    main = collection.indexed.index.view().main
    assert main is not None
    assert main.approximate is not None
    return main.approximate.effort.built


def finds(collection: Collection, known: dict[str, Vector]) -> None:
    """Check that searches find each point by its own vector, and nothing that is not there."""
    assert len(collection.indexed.index.view()) == collection.count() == len(known)
    ids = sorted(known)
    found = [hits[0].id for hits in collection.query(np.stack([known[i] for i in ids]), 1)]
    assert np.mean([a == b for a, b in zip(found, ids, strict=True)]) >= 0.99
    assert set(found) <= set(ids)
    exact = [hits[0].id for hits in collection.query(np.stack([known[i] for i in ids]), 1, SearchOptions(exact=True))]
    assert exact == ids


def test_an_index_grows_with_its_collection_until_it_has_doubled(tmp_path: Path) -> None:
    x = clustered(3_000)
    known = {f"{i:05d}": v for i, v in enumerate(x[:1_200])}
    with Library.open(tmp_path) as library, patch("service.index.planner.EXTEND_POINTS", 100):
        collection = library.create("c", "f", D)[0]
        with patch("service.index.planner.BUILD_POINTS", 1_150):  # no build begins before
            put(collection, x[:1_200])
            settled(collection)
        first = built(collection)
        gone = [f"{i:05d}" for i in range(0, 1_200, 10)]
        collection.delete(ids=gone)
        known = {i: v for i, v in known.items() if i not in gone}
        put(collection, x[1_200:1_400], first=1_200)
        known |= {f"{i:05d}": v for i, v in enumerate(x[1_200:1_400], start=1_200)}
        settled(collection)
        assert built(collection) == first, "it was added to"
        main = collection.indexed.index.view().main
        assert main is not None
        assert main.dead == len(gone), "tombstones stay"
        finds(collection, known)
    with Library.open(tmp_path) as library, patch("service.index.planner.EXTEND_POINTS", 100):
        collection = library.collection("c")
        assert built(collection) == first
        finds(collection, known)
        put(collection, x[1_400:], first=1_400)
        known |= {f"{i:05d}": v for i, v in enumerate(x[1_400:], start=1_400)}
        settled(collection)
        assert built(collection) > first, "it had doubled"
        finds(collection, known)


def test_what_is_deleted_while_an_index_grows_is_gone(tmp_path: Path) -> None:
    x = clustered(1_500)
    begun, go = threading.Event(), threading.Event()
    from service.index import build_worker

    build = build_worker.build

    def slow(*arguments: Any) -> Any:  # noqa: ANN401 - what it takes the place of
        begun.set()
        assert go.wait(30)
        return build(*arguments)

    with Library.open(tmp_path) as library, patch("service.index.planner.EXTEND_POINTS", 100):
        collection = library.create("c", "f", D)[0]
        with patch("service.index.planner.BUILD_POINTS", 1_250):  # no build begins before
            put(collection, x[:1_300])
            settled(collection)
        first = built(collection)
        with patch("service.index.build_worker.build", slow):
            put(collection, x[1_300:1_450], first=1_300)
            assert begun.wait(30)
            gone = ["00000", "00700", "01299", "01300", "01400"]
            collection.delete(ids=gone)
            put(collection, x[1_450:], first=1_450)
            go.set()
            settled(collection)
        known = {f"{i:05d}": v for i, v in enumerate(x) if f"{i:05d}" not in gone}
        assert built(collection) == first
        finds(collection, known)
    with Library.open(tmp_path) as library:
        finds(library.collection("c"), known)


def test_after_a_build_that_failed_the_next_relies_on_nothing_that_was_there(tmp_path: Path) -> None:
    x = clustered(1_600)
    with Library.open(tmp_path) as library, patch("service.index.planner.EXTEND_POINTS", 100):
        collection = library.create("c", "f", D)[0]
        with patch("service.index.planner.BUILD_POINTS", 1_250):
            put(collection, x[:1_300])
            settled(collection)
        first = built(collection)
        there = index_folder(tmp_path) / "index.faiss"
        there.unlink()  # searches go on with the one that they have open
        there.write_bytes(b"not an index")
        put(collection, x[1_300:1_450], first=1_300)
        settled(collection)
        put(collection, x[1_450:], first=1_450)
        settled(collection)
        assert built(collection) > first
        finds(collection, {f"{i:05d}": v for i, v in enumerate(x)})


def test_a_start_reads_only_the_tail_from_the_database(closed: Path, known: dict[str, Vector]) -> None:
    with patch("service.library.library.read_vectors", side_effect=lambda _connection, after: iter(read(after))):
        seen: dict[int, int] = {}

        def read(after: dict[int, int]) -> list[Any]:
            seen.update(after)
            return []

        Library.open(closed).close()
    assert next(iter(seen.values())) >= 200
    with Library.open(closed) as library:
        agrees(library.collection("c"), known)


def test_deletes_since_a_build_hold_after_a_restart(closed: Path, known: dict[str, Vector]) -> None:
    with Library.open(closed) as library:
        library.collection("c").delete(ids=["00000", "00449"])
    for id_ in ("00000", "00449"):
        del known[id_]
    with Library.open(closed) as library:
        agrees(library.collection("c"), known)


def damage(folder: Path, how: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    match how:
        case "flip":
            data = bytearray((folder / "vectors.f32").read_bytes())
            data[len(data) // 2] ^= 1
            (folder / "vectors.f32").write_bytes(data)
        case "rows":
            data = bytearray((folder / "rows.i64").read_bytes())
            data[8] ^= 4
            (folder / "rows.i64").write_bytes(data)
        case "short":
            (folder / "vectors.f32").write_bytes((folder / "vectors.f32").read_bytes()[:-4])
        case "gone":
            (folder / "rows.i64").unlink()
        case "no manifest":
            (folder / "manifest.json").unlink()
        case "torn manifest":
            (folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes()[:-20])
        case "deep manifest":
            (folder / "manifest.json").write_bytes(b"[" * 30_000)
        case "long manifest":
            (folder / "manifest.json").write_bytes(b" " * 100_000 + json.dumps(manifest).encode())
        case "of another library":
            manifest["belonging"]["epoch"] = "00" * 16
            (folder / "manifest.json").write_text(json.dumps(manifest))
        case "of another model":
            manifest["belonging"]["fingerprint"] = "g"
            (folder / "manifest.json").write_text(json.dumps(manifest))
        case "of another format":
            manifest["format"] += 1
            (folder / "manifest.json").write_text(json.dumps(manifest))
        case "from the future":
            manifest["tick"] = 10**9
            (folder / "manifest.json").write_text(json.dumps(manifest))
        case "a list":
            (folder / "manifest.json").write_text("[]")


@pytest.mark.parametrize(
    "how",
    [
        "flip", "rows", "short", "gone", "no manifest", "torn manifest", "deep manifest", "long manifest", "of another library",
        "of another model", "of another format", "from the future", "a list",
    ],
)  # fmt: skip
def test_a_rejected_segment_is_left_and_everything_is_read_from_the_database(
    closed: Path, known: dict[str, Vector], how: str
) -> None:
    before = index_folder(closed)
    damage(before, how)
    with Library.open(closed) as library:
        agrees(library.collection("c"), known)
        settled(library.collection("c"))
        agrees(library.collection("c"), known)
        assert library.collection("c").stats().tail == 0  # built again
    with Library.open(closed) as library:
        agrees(library.collection("c"), known)


def test_a_database_put_back_from_an_older_copy_does_not_believe_the_newer_segment(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    x, other = vectors(300), vectors(300, seed=7)
    with Library.open(data) as library:
        library.create("c", "f", D)
    shutil.copytree(data, copy)
    with Library.open(data) as library:
        put(library.collection("c"), x)
        settled(library.collection("c"))
    shutil.copy(copy / DATABASE_NAME, data / DATABASE_NAME)
    with patch("service.index.planner.BUILD_POINTS", 10**9), Library.open(data) as library:
        put(library.collection("c"), other)  # the same row numbers, other vectors
    with Library.open(data) as library:
        agrees(library.collection("c"), {f"{i:05d}": v for i, v in enumerate(other)})


def test_a_foreign_segment_with_the_right_name_is_found_by_its_vectors(closed: Path, tmp_path: Path) -> None:
    """The last guard: a database copied by hand whose epoch and tick fit."""
    connection = sqlite3.connect(closed / DATABASE_NAME)
    row = connection.execute("SELECT min(row) FROM vectors").fetchone()[0]
    import zlib

    blob = vectors(1, seed=42)[0].astype("<f4").tobytes()
    connection.execute("UPDATE vectors SET vector = ?, crc32 = ? WHERE row = ?", (blob, zlib.crc32(blob), row))
    connection.commit()
    connection.close()
    with Library.open(closed) as library:
        point = library.collection("c").point("00000", with_vector=True)
        np.testing.assert_allclose(point.vector, vectors(1, seed=42)[0], atol=1e-6)


def test_an_index_file_that_is_not_the_one_written_never_reaches_the_parser(tmp_path: Path) -> None:
    with Library.open(tmp_path) as library:
        collection = library.create("c", "f", D)[0]
        put(collection, clustered(1_500))
        settled(collection)
        assert collection.stats().index == "hnsw"
    (index_folder(tmp_path) / "index.faiss").write_bytes(b"IxHN" + b"\xff" * 5_000)
    with patch.object(faiss, "read_index", side_effect=AssertionError("parsed")) as parser:
        with patch("service.index.planner.EXACT_POINTS", 10**9), Library.open(tmp_path) as library:
            settled(library.collection("c"))
            assert library.collection("c").stats().index == "exact"
            assert library.collection("c").count() == 1_500
        parser.assert_not_called()


def clustered(count: int) -> Vector:
    rng = np.random.default_rng(3)
    return unit_rows(rng.normal(size=(40, D))[rng.integers(0, 40, count)] + 0.4 * rng.normal(size=(count, D)), D)


def test_stats_say_which_index_answers_and_what_it_was_measured_to_find(tmp_path: Path) -> None:
    x = clustered(1_500)
    with Library.open(tmp_path) as library:
        collection = library.create("c", "f", D)[0]
        put(collection, x[:900])
        stats = settled(collection).stats()
        assert (stats.index, stats.measured_recall) == ("exact", None)
        put(collection, x[900:], first=900)
        stats = settled(collection).stats()
        assert stats.index == "hnsw"
        assert stats.measured_recall is not None
        assert 0.99 <= stats.measured_recall <= 1
        assert stats.memory_bytes > 1_500 * (4 * D + 8)
        agrees(collection, {f"{i:05d}": v for i, v in enumerate(x)})
    with Library.open(tmp_path) as library:
        assert library.collection("c").stats().index == "hnsw"
        agrees(library.collection("c"), {f"{i:05d}": v for i, v in enumerate(x)})


def test_a_dropped_collection_leaves_no_files(closed: Path) -> None:
    with Library.open(closed) as library:
        library.drop("c")
        assert not any((closed / INDEX_FOLDER).iterdir())
    (closed / INDEX_FOLDER / "77" / "1").mkdir(parents=True)
    (closed / INDEX_FOLDER / "stray").mkdir()
    with Library.open(closed):
        assert not any((closed / INDEX_FOLDER).iterdir())


def test_a_build_that_fails_leaves_the_tail_and_is_tried_again(tmp_path: Path) -> None:
    with Library.open(tmp_path) as library:
        collection = library.create("c", "f", D)[0]
        with (
            patch("service.index.segment_files.write", side_effect=OSError(28, "no space")) as write,
            patch("service.library.builder.RETRY_S", 60),
        ):
            put(collection, vectors(300))
            settled(collection)
            assert write.call_count == 1
        collection.indexed.not_before = 0.0  # a minute later
        assert collection.stats().tail == 300
        assert library.writable
        put(collection, vectors(1, seed=1), first=300)
        settled(collection)
        assert collection.stats().tail <= 1
        agrees(collection, {f"{i:05d}": v for i, v in enumerate([*vectors(300), *vectors(1, seed=1)])})


def test_a_library_closes_while_an_index_is_built(tmp_path: Path) -> None:
    with patch("service.index.planner.EXACT_POINTS", 10):
        library = Library.open(tmp_path)
        collection = library.create("c", "f", D)[0]
        put(collection, clustered(1_000))
        assert collection.stats().building
        begun = time.monotonic()
        library.close()
        assert time.monotonic() - begun < 5
    with Library.open(tmp_path) as library:
        agrees(library.collection("c"), {f"{i:05d}": v for i, v in enumerate(clustered(1_000))})


def test_a_library_that_cannot_be_opened_leaves_no_thread(closed: Path) -> None:
    connection = sqlite3.connect(closed / DATABASE_NAME)
    connection.execute("UPDATE vectors SET crc32 = crc32 + 1")
    connection.commit()
    connection.close()
    before = threading.active_count()
    with pytest.raises(LibraryInvalid, match="damaged"):
        Library.open(closed)
    assert threading.active_count() == before
