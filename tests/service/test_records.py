from collections.abc import Iterator
from pathlib import Path
from sqlite3 import Connection

import numpy as np
import pytest

from service.database import Database
from service.errors import CollectionMissing, LibraryInvalid, PointConflict, PointMissing
from service.filters import Filter, Ids
from service.points import UNSET, Source, Unset, Vector, unit_rows
from service.records import Change, Record, Records, read_vectors

EVERYTHING = Filter()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "library.sqlite3")
    insert = "INSERT INTO collections (name, fingerprint, dimension, keep, created_at) VALUES (?, 'f', 3, 'image', 0)"
    for name in ("one", "two"):
        database.write(lambda c, name=name: c.execute(insert, (name,)))  # type: ignore[misc]
    yield database
    database.close()


@pytest.fixture
def records() -> Records:
    return Records(1, 3)


def vector(seed: int) -> Vector:
    unit: Vector = unit_rows(np.random.default_rng(seed).normal(size=(1, 3)), 3)[0]
    return unit


def record(
    id_: str,
    content: int = 0,
    label: str | Unset | None = UNSET,
    payload: str | Unset | None = UNSET,
    picture: bytes | None = None,
    source: Source | None = None,
) -> Record:
    return Record(id_, bytes([content]), vector(content), label, payload, picture, source)


def put(database: Database, records: Records, *new: Record, replace: bool = False) -> Change:
    return database.write(lambda c: records.put(c, new, replace))


def read_all(connection: Connection) -> dict[int, tuple[int, list[float]]]:
    return {
        int(row): (collection, v.tolist())
        for collection, rows, vectors in read_vectors(connection, batch=2)
        for row, v in zip(rows, vectors, strict=True)
    }


def test_the_same_content_is_unchanged_and_updates_only_what_is_said(database: Database, records: Records) -> None:
    put(database, records, record("a", label="cat", payload='{"n":1}'))
    again = put(database, records, record("a", label="dog"), record("b"))
    assert [o.status for o in again.outcomes] == ["unchanged", "created"]
    assert len(again.added) == 1
    put(database, records, record("a", payload=None))
    with database.snapshot() as connection:
        point = records.point(connection, "a")
    assert (point.label, point.payload) == ("dog", None)


def test_other_content_conflicts_alone_in_its_batch(database: Database, records: Records) -> None:
    put(database, records, record("a", 1, label="cat"))
    change = put(database, records, record("b", 2), record("a", 3, label="dog"), record("c", 4))
    assert [o.status for o in change.outcomes] == ["created", None, "created"]
    assert isinstance(change.outcomes[1].error, PointConflict)
    with database.snapshot() as connection:
        assert records.point(connection, "a").label == "cat"
        assert records.stored(connection, Ids(("a",)))["a"].content_hash == b"\1"


def test_a_replacement_is_a_new_row_that_inherits_what_is_not_said(database: Database, records: Records) -> None:
    first = put(database, records, record("a", 1, label="cat", payload='{"n":1}', picture=b"old"))
    change = put(database, records, record("a", 2, payload='{"n":2}'), replace=True)
    assert change.outcomes[0].status == "replaced"
    assert change.removed.tolist() == first.added.tolist()
    assert change.added[0] > first.added[0]
    with database.snapshot() as connection:
        point = records.point(connection, "a")
        assert (point.label, point.payload, records.picture(connection, "a")) == ("cat", {"n": 2}, None)
        assert list(read_all(connection)) == change.added.tolist()


def test_a_row_number_is_never_used_again(database: Database, records: Records) -> None:
    rows = []
    for i in range(3):
        rows += put(database, records, record("a", i)).added.tolist()
        database.write(lambda c: records.delete(c, EVERYTHING))
    assert rows == sorted(set(rows))


def test_a_put_without_a_vector_believes_or_conflicts(database: Database, records: Records) -> None:
    put(database, records, record("a", 1))
    believed = Record("a", b"\1", None, "cat", UNSET, None, Source("a.png", 5, 6))
    wrong = Record("b", b"\2", None, "cat", UNSET, None, None)
    change = put(database, records, believed, wrong, replace=True)
    assert change.outcomes[0].status == "unchanged"
    assert isinstance(change.outcomes[1].error, PointConflict)
    with database.snapshot() as connection:
        assert records.point(connection, "a").label == "cat"
        assert records.stored(connection, EVERYTHING)["a"].source == Source("a.png", 5, 6)


def test_collections_do_not_see_each_other(database: Database, records: Records) -> None:
    other = Records(2, 3)
    put(database, records, record("a", 1))
    assert put(database, other, record("a", 2)).outcomes[0].status == "created"
    database.write(lambda c: records.delete(c, EVERYTHING))
    with database.snapshot() as connection:
        assert other.count(connection, EVERYTHING) == 1
        with pytest.raises(PointMissing):
            records.point(connection, "a")


def test_a_dropped_collection_takes_no_points(database: Database, records: Records) -> None:
    database.write(lambda c: c.execute("DELETE FROM collections WHERE collection = 1"))
    with pytest.raises(CollectionMissing):
        put(database, records, record("a"))


def test_vectors_are_read_back_bit_for_bit_by_collection(database: Database, records: Records) -> None:
    put(database, records, *[record(str(i), i) for i in range(5)])
    put(database, Records(2, 3), record("x", 9))
    with database.snapshot() as connection:
        found = read_all(connection)
    assert [c for c, _ in found.values()] == [1] * 5 + [2]
    assert [v for _, v in found.values()] == [vector(i).tolist() for i in (0, 1, 2, 3, 4, 9)]


@pytest.mark.parametrize("damage", ["vector = zeroblob(12)", "vector = x'00'", "crc32 = crc32 + 1"])
def test_a_damaged_vector_is_refused(database: Database, records: Records, damage: str) -> None:
    put(database, records, record("a", 1))
    database.write(lambda c: c.execute(f"UPDATE vectors SET {damage}"))
    with database.snapshot() as connection, pytest.raises(LibraryInvalid, match="damaged"):
        list(read_vectors(connection))
