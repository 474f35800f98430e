import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from sqlite3 import Connection

import numpy as np
import pytest

from service.errors import CollectionMissing, LibraryInvalid, PointConflict, PointMissing
from service.points import UNSET, Source, Unset, Vector, unit_rows
from service.store.database import Database
from service.store.filters import Filter, Ids
from service.store.migrations import MIGRATIONS, PICTURED, migrate
from service.store.point_rows import checksum
from service.store.records import Change, Record, Records, read_epoch
from service.store.stored_vectors import read_vectors

EVERYTHING = Filter()
NOTHING = Filter(must=(Ids(()),))


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
        for collection, rows, vectors in read_vectors(connection, {1: 0, 2: 0})
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


def test_u01_a_point_says_whether_its_file_was_on_another_disk_or_that_it_does_not_know(
    database: Database, records: Records
) -> None:
    for mounted in (True, False, None):
        put(database, records, record("a", source=Source("a.png", 5, 6, mounted)))
        with database.snapshot() as connection:
            assert records.stored(connection, EVERYTHING)["a"].source == Source("a.png", 5, 6, mounted)
    put(database, records, record("a", source=Source("a.png", 5, 6, True)))
    database.write(lambda c: c.execute("UPDATE points SET source_mounted = 0"))
    with database.snapshot() as connection, pytest.raises(LibraryInvalid, match="damaged"):
        records.stored(connection, EVERYTHING)


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


@pytest.mark.parametrize(
    "damage", ["vector = zeroblob(12)", "vector = x'00'", "vector = 5", "crc32 = crc32 + 1", "gone"]
)
def test_a_damaged_vector_is_refused(database: Database, records: Records, damage: str) -> None:
    put(database, records, record("a", 1))
    database.write(lambda c: c.execute("DELETE FROM vectors" if damage == "gone" else f"UPDATE vectors SET {damage}"))
    with database.snapshot() as connection, pytest.raises(LibraryInvalid, match="damaged"):
        list(read_vectors(connection, {1: 0}))


DAMAGED_POINTS = [
    "id = 'b'",
    "content_hash = x'02'",
    "label = 'dog'",
    "label = NULL",
    "label = CAST(x'63ff' AS TEXT)",
    "payload = '{\"n\":2}'",
    "payload = '{\"n\":'",
    "source_path = 'b.png'",
    "source_size = 6",
    "source_mtime_ns = NULL",
    "crc32 = crc32 + 1",
    "content_hash = 'text'",
    "row = row + 1",
    "pictured = 1",
]


@pytest.mark.parametrize("damage", DAMAGED_POINTS)
def test_a_damaged_point_is_refused_wherever_it_is_read_or_changed(
    database: Database, records: Records, damage: str
) -> None:
    put(database, records, Record("a", b"\1", vector(1), "cat", '{"n":1}', None, Source("a.png", 5, 6)))
    database.write(lambda c: c.execute(f"UPDATE points SET {damage}"))
    with database.snapshot() as connection:
        ((row, id_),) = connection.execute("SELECT row, id FROM points")
        for read in (
            lambda: records.point(connection, id_),
            lambda: records.picture(connection, id_),
            lambda: records.by_rows(connection, np.array([row])),
            lambda: records.page(connection, EVERYTHING, "", 10),
            lambda: records.page(connection, Ids((id_,)), "", 10),
            lambda: records.matching_among(connection, NOTHING, np.array([row])),
            lambda: records.stored(connection, EVERYTHING),
            lambda: records.stored(connection, Ids((id_,))),
        ):
            with pytest.raises(LibraryInvalid, match="damaged"):
                read()
    for change in (
        lambda c: records.put(c, [record(id_, 1)], True),
        lambda c: records.update(c, id_, "new", UNSET),
        lambda c: records.delete(c, EVERYTHING),
    ):
        with pytest.raises(LibraryInvalid, match="damaged"):
            database.write(change)


def test_a_damaged_picture_is_refused(database: Database, records: Records) -> None:
    put(database, records, record("a", 1, picture=b"picture"))
    for change in ("crc32 = NULL", "picture = x'00', crc32 = NULL", "crc32 = 5"):
        database.write(lambda c, change=change: c.execute(f"UPDATE pictures SET {change}"))  # type: ignore[misc]
        with database.snapshot() as connection, pytest.raises(LibraryInvalid, match="damaged"):
            records.picture(connection, "a")


def test_bytes_that_are_called_text_by_a_flipped_bit_are_read_as_they_were_written(
    database: Database, records: Records
) -> None:
    put(database, records, record("a", 1, picture=b"\xff\x00picture"))
    for table, column in (("vectors", "vector"), ("pictures", "picture")):
        database.write(lambda c, t=table, k=column: c.execute(f"UPDATE {t} SET {k} = CAST({k} AS TEXT)"))  # type: ignore[misc]
    with database.snapshot() as connection:
        assert [v for _, v in read_all(connection).values()] == [vector(1).tolist()]
        assert records.picture(connection, "a") == b"\xff\x00picture"


@pytest.mark.parametrize("change", ["picture = 5", "picture = 'text'", "crc32 = 'text'"])
def test_a_picture_of_another_type_is_refused(database: Database, records: Records, change: str) -> None:
    put(database, records, record("a", 1, picture=b"picture"))
    database.write(lambda c: c.execute(f"UPDATE pictures SET {change}"))
    with database.snapshot() as connection, pytest.raises(LibraryInvalid, match="damaged"):
        records.picture(connection, "a")


def test_a_picture_that_got_lost_is_not_taken_for_none(database: Database, records: Records) -> None:
    put(database, records, record("a", 1, picture=b"picture"), record("b", 2))
    database.write(lambda c: c.execute("DELETE FROM pictures"))
    with database.snapshot() as connection:
        assert records.picture(connection, "b") is None
        with pytest.raises(LibraryInvalid, match="damaged"):
            records.picture(connection, "a")


def test_pictures_of_an_older_library_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "library.sqlite3"
    monkeypatch.setattr("service.store.migrations.MIGRATIONS", MIGRATIONS[: MIGRATIONS.index(PICTURED)])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as old:
        migrate(old)
        old.execute("INSERT INTO collections VALUES (1, 'c', 'f', 3, 'image', 0)")
        for row, id_ in ((1, "a"), (2, "b")):
            columns = (row, 1, id_, b"h", None, None, None, None, None)
            old.execute(
                "INSERT INTO points (row, collection, id, content_hash, crc32) VALUES (?, ?, ?, ?, ?)",
                (*columns[:4], checksum(*columns)),
            )
        old.execute("INSERT INTO pictures VALUES (2, x'01', NULL)")
    monkeypatch.undo()
    with contextlib.closing(Database(path)) as now, now.snapshot() as connection:
        records = Records(1, 3)
        assert [records.picture(connection, id_) for id_ in ("a", "b")] == [None, b"\1"]


def test_every_change_keeps_the_checksum(database: Database, records: Records) -> None:
    put(database, records, record("a", 1, label="cat", payload='{"n":1}'))
    put(database, records, Record("a", b"\1", None, UNSET, UNSET, None, Source("a.png", 5, 6)))
    database.write(lambda c: records.update(c, "a", None, '{"n":2}'))
    put(database, records, record("a", 2, label="dog"), replace=True)
    with database.snapshot() as connection:
        assert records.point(connection, "a").payload == {"n": 2}


def test_a_put_that_changes_nothing_says_so_and_one_that_does_names_the_rows(
    database: Database, records: Records
) -> None:
    rows = put(database, records, record("a", 1, label="cat"), record("b", 2, payload='{"n":1}')).added.tolist()
    assert put(database, records, record("a", 1, label="cat"), record("b", 2)).amended.tolist() == []
    assert put(database, records, record("b", 2, payload=None), record("a", 1)).amended.tolist() == rows[1:]
    assert put(database, records, record("b", 2, label="x"), record("a", 1, label="x")).amended.tolist() == rows
    assert put(database, records, record("a", 3), replace=True).amended.tolist() == []


def test_an_update_says_what_the_point_is_now(database: Database, records: Records) -> None:
    put(database, records, record("a", 1, label="cat", payload='{"n":1}'))
    updated = database.write(lambda c: records.update(c, "a", "dog", UNSET))
    with database.snapshot() as connection:
        assert updated == records.point(connection, "a")
        assert records.count(connection, NOTHING) == 0


def test_every_library_has_an_epoch_of_its_own_that_stays(tmp_path: Path) -> None:
    epochs = []
    for name in ("a", "b", "a"):
        database = Database(tmp_path / name)
        with database.snapshot() as connection:
            epochs.append(read_epoch(connection))
        database.close()
    assert epochs[0] == epochs[2] != epochs[1]
    assert len(epochs[0]) == 16
