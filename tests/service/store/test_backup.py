import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from backbone.errors import DirectoryLocked, OutputNotEmpty, PathMissing
from service.errors import LibraryInvalid, StorageFailed, StorageFull
from service.library.library import Library
from service.points import NewPoint, Point, hash_vector
from service.store import backup as copying
from service.store.backup import backup, restore
from service.store.database import DATABASE_NAME, INDEX_FOLDER
from service.store.filters import Filter, Match
from service.store.migrations import MIGRATIONS
from service.store.records import read_epoch

D = 8


def points(first: int, last: int) -> list[NewPoint]:
    found = []
    for i in range(first, last):
        x = np.random.default_rng(i).normal(size=D)
        found.append(
            NewPoint(f"p{i}", hash_vector(x), x, f"label {i % 3}", {"n": i, "tags": ["a", i % 5]}, b"%d" % i * 99)
        )
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A library with two collections, closed."""
    with Library.open(tmp_path / "data") as library:
        library.create("one", "f", D, keep="image")[0].put(points(0, 50))
        library.create("two", "g", D)[0].put(points(0, 5))
        library.create("empty", "g", D)
    return tmp_path / "data"


def everything(data: Path) -> dict[str, list[Point]]:
    with Library.open(data) as library:
        return {c.name: c.scroll(1000)[0] for c in library.collections()}


def epoch(data: Path) -> bytes:
    connection = sqlite3.connect(data / DATABASE_NAME)
    found = read_epoch(connection)
    connection.close()
    return found


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_restored_backup_holds_what_the_library_held(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    copied = backup(data, out)
    assert copied.points == {"empty": 0, "one": 50, "two": 5}
    assert copied.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    assert copied.size_bytes == out.stat().st_size
    assert restore(out, tmp_path / "new") == copied
    assert everything(tmp_path / "new") == everything(data)
    with Library.open(tmp_path / "new") as library:
        one = library.collection("one")
        assert one.picture("p7") == b"7" * 99
        assert one.count(Filter(must=(Match("tags", (3,)),))) == 10
        assert one.query([points(9, 10)[0].vector], 1)[0][0].id == "p9"
        assert library.create("three", "h", D)[1]


def test_a_backup_is_one_file_that_stays_as_it_is(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "copies" / "copy"
    out.parent.mkdir()
    backup(data, out)
    before = listing(out.parent)
    assert list(before) == ["copy"]
    out.chmod(0o400)
    out.parent.chmod(0o500)
    restore(out, tmp_path / "new")
    out.parent.chmod(0o700)
    assert listing(out.parent) == before


def test_a_restore_is_another_epoch_without_what_was_derived(data: Path, tmp_path: Path) -> None:
    backup(data, tmp_path / "copy")
    (data / INDEX_FOLDER / "1").mkdir(parents=True, exist_ok=True)
    (data / INDEX_FOLDER / "1" / "vectors").write_bytes(b"derived")
    first = epoch(data)
    restore(tmp_path / "copy", data, replace=True)
    second = epoch(data)
    restore(tmp_path / "copy", data, replace=True)
    assert len({first, second, epoch(data)}) == 3
    assert len(first) == 16
    assert not (data / INDEX_FOLDER).exists()


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_backup import D, points
from service.library.library import Library
collection = Library.open(Path(sys.argv[1])).create("c", "f", D)[0]
number = 0
while True:
    collection.put(points(number * 5, number * 5 + 5))
    number += 1
    print(number, flush=True)
"""


def test_a_backup_while_a_service_writes_is_one_snapshot_with_every_write_acknowledged_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.backup.STEP_PAGES", 1)  # so that there are writes while it copies
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WRITER, str(tmp_path / "data"), str(Path(__file__).parent)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    acknowledged = [0]

    def listen() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            acknowledged[0] = int(line)

    listener = threading.Thread(target=listen)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "1\n"
        listener.start()
        for _ in range(5):
            before = acknowledged[0]
            copied = backup(tmp_path / "data", tmp_path / "copy", force=True)
            restore(tmp_path / "copy", tmp_path / "new", replace=True)
            after = acknowledged[0] + 1
            with Library.open(tmp_path / "new") as library:
                found = library.collection("c").scroll(1_000_000)[0]
            assert len(found) == copied.points["c"]
            writes, rest = divmod(len(found), 5)
            assert rest == 0
            assert before <= writes <= after
            assert {p.id for p in found} == {f"p{i}" for i in range(len(found))}
    finally:
        child.kill()
        child.wait()
        listener.join()
        assert child.stdout is not None
        child.stdout.close()
    assert acknowledged[0] > 5


def test_a_backup_does_not_wait_for_the_lock_and_a_restore_is_refused_by_it(data: Path, tmp_path: Path) -> None:
    with Library.open(data) as library:
        collection = library.collection("one")
        backup(data, tmp_path / "copy")
        with pytest.raises(DirectoryLocked):
            restore(tmp_path / "copy", data, replace=True)
        assert collection.put(points(50, 51))[0].status == "created"
    assert len(everything(data)["one"]) == 51


def test_a_restore_is_refused_while_another_program_reads_the_old_library(data: Path, tmp_path: Path) -> None:
    """It would clear the new library's log away when it ends."""
    backup(data, tmp_path / "copy")
    reader = sqlite3.connect(data / DATABASE_NAME)
    reader.execute("SELECT count(*) FROM points").fetchone()
    with pytest.raises(DirectoryLocked, match="another program"):
        restore(tmp_path / "copy", data, replace=True)
    reader.close()
    restore(tmp_path / "copy", data, replace=True)


def test_what_is_there_is_kept_unless_it_is_to_be_replaced(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    out.write_bytes(b"precious")
    with pytest.raises(OutputNotEmpty, match="--force"):
        backup(data, out)
    assert out.read_bytes() == b"precious"
    backup(data, out, force=True)
    before = everything(data)
    with pytest.raises(OutputNotEmpty, match="--replace"):
        restore(out, data)
    assert everything(data) == before


@pytest.mark.parametrize("name", [DATABASE_NAME, f"{DATABASE_NAME}-wal", "copy"])
def test_a_backup_is_not_written_among_the_librarys_own_files(data: Path, name: str) -> None:
    before = listing(data)
    with pytest.raises(OutputNotEmpty):
        backup(data, data / name, force=True)
    assert listing(data) == before


def test_what_is_missing_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(PathMissing, match="no library"):
        backup(tmp_path / "absent", tmp_path / "copy")
    with pytest.raises(PathMissing):
        backup(data, tmp_path / "absent" / "copy")
    with pytest.raises(PathMissing):
        restore(tmp_path / "absent", tmp_path / "new")
    assert not (tmp_path / "absent").exists()
    assert not (tmp_path / "new").exists()


def damage(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute(statement).rowcount != 0
    connection.commit()
    connection.close()


DAMAGES = [
    "UPDATE points SET label = 'other' WHERE row = 3",
    "UPDATE points SET payload = '{\"n\":77}' WHERE row = 3",
    "UPDATE points SET label = CAST(x'ff' AS TEXT) WHERE row = 3",
    "UPDATE points SET id = 'x' WHERE row = 3",
    "UPDATE points SET collection = 3 WHERE row = 3",
    "UPDATE points SET content_hash = 5 WHERE row = 3",
    "UPDATE vectors SET vector = zeroblob(32) WHERE row = 3",
    "UPDATE vectors SET vector = x'', crc32 = 0 WHERE row = 3",
    "DELETE FROM vectors WHERE row = 3",
    "DELETE FROM points WHERE row = 3",
    "UPDATE pictures SET picture = x'00' WHERE row = 3",
    "INSERT INTO pictures VALUES (9999, x'00', NULL)",
    "DELETE FROM pictures WHERE row = 3",
    "UPDATE points SET pictured = 0 WHERE row = 3",
    "ALTER TABLE pictures RENAME COLUMN picture TO pictura",
    "DROP TRIGGER members_leave",
    "DELETE FROM fields WHERE row = 3 AND value = 2",
    "UPDATE fields SET value = 77 WHERE row = 3 AND value = 2",
    "INSERT INTO fields SELECT key, 'extra', 3 FROM field_names LIMIT 1",
    "DELETE FROM field_names WHERE name = 'n' AND collection = 1",
]


@pytest.mark.parametrize("statement", DAMAGES)
def test_what_is_not_as_it_was_written_is_neither_copied_nor_restored(
    data: Path, tmp_path: Path, statement: str
) -> None:
    out = tmp_path / "copy"
    backup(data, out)
    before = everything(data)
    damage(out, statement)
    with pytest.raises(LibraryInvalid):
        restore(out, data, replace=True)
    assert everything(data) == before
    damage(data / DATABASE_NAME, statement)
    with pytest.raises(LibraryInvalid):
        backup(data, tmp_path / "second")
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["copy", "data"]


def test_a_file_with_a_flipped_bit_or_cut_off_is_refused_or_restores_all(data: Path, tmp_path: Path) -> None:
    out, new = tmp_path / "copy", tmp_path / "new"
    backup(data, out)
    whole, expected = out.read_bytes(), everything(data)
    rng = np.random.default_rng(7)
    refused = 0
    for i in range(60):
        bad = bytearray(whole)
        if i % 4 == 3:
            del bad[rng.integers(len(bad)) :]
        else:
            bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
        out.write_bytes(bad)
        try:
            restore(out, new, replace=True)
        except LibraryInvalid:
            refused += 1
        else:
            found = everything(new)
            assert found == expected  # the bit was in a part that nothing reads
            shutil.rmtree(new)
        assert not [p for p in new.glob("*") if p.name != ".dinodex.lock"]
    assert refused > 15  # every one that was cut off, and some


def test_a_key_that_differs_between_a_table_and_its_index_is_refused(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    backup(data, out)
    whole = out.read_bytes()
    places = [at for at in range(len(whole)) if whole.startswith(b"p37", at)]
    assert len(places) == 2
    for at in places:
        out.write_bytes(whole[:at] + b"p3x" + whole[at + 3 :])
        with pytest.raises(LibraryInvalid):
            restore(out, tmp_path / "new")


@pytest.mark.parametrize("content", [b"", b"no library" * 1000, b"\0" * 8192])
def test_a_file_that_is_no_library_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(LibraryInvalid):
        restore(tmp_path / "file", tmp_path / "new")
    assert [p.name for p in (tmp_path / "new").iterdir()] == [".dinodex.lock"]


def test_the_database_of_another_program_or_a_newer_version_is_refused(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    damage(other, "CREATE TABLE theirs (x)")
    with pytest.raises(LibraryInvalid, match="not a library"):
        restore(other, tmp_path / "new")
    out = tmp_path / "copy"
    backup(data, out)
    damage(out, f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(LibraryInvalid, match="newer"):
        restore(out, tmp_path / "new")


def test_a_damaged_library_is_replaced_by_its_backup(data: Path, tmp_path: Path) -> None:
    backup(data, tmp_path / "copy")
    before = everything(data)
    (data / DATABASE_NAME).write_bytes(b"rubbish" * 5000)
    (data / f"{DATABASE_NAME}-wal").write_bytes(b"rubbish" * 5000)
    restore(tmp_path / "copy", data, replace=True)
    assert everything(data) == before


def test_the_log_of_a_killed_service_is_copied_and_never_taken_for_the_restored_librarys(
    data: Path, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    with Library.open(data) as library:
        library.collection("one").put(points(50, 60))
        shutil.copytree(data, killed)
    assert (killed / f"{DATABASE_NAME}-wal").stat().st_size > 0
    copied = backup(killed, tmp_path / "copy")
    assert copied.points["one"] == 60
    backup(data, tmp_path / "old")
    with Library.open(tmp_path / "small") as library:
        library.create("one", "f", D)
    backup(tmp_path / "small", tmp_path / "other")
    restore(tmp_path / "other", killed, replace=True)
    assert everything(killed) == {"one": []}


def test_a_disk_that_refuses_leaves_what_was_there(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "copy"
    backup(data, out)
    before, there = out.read_bytes(), everything(data)

    def refuse(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("service.store.backup.os.fsync", refuse)
    with pytest.raises(StorageFailed):
        backup(data, out, force=True)
    with pytest.raises(StorageFailed):
        restore(out, data, replace=True)
    monkeypatch.undo()
    assert out.read_bytes() == before
    assert everything(data) == there
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["copy", "data"]


def test_what_a_killed_backup_left_is_cleared_by_the_next(data: Path, tmp_path: Path) -> None:
    (tmp_path / ".copy.0123456789ab.tmp").write_bytes(b"half")
    (tmp_path / ".copy.0123456789ab.tmp-journal").write_bytes(b"half")
    (tmp_path / ".other.0123456789ab.tmp").write_bytes(b"of another")
    backup(data, tmp_path / "copy")
    assert [p.name for p in sorted(tmp_path.iterdir())] == [".other.0123456789ab.tmp", "copy", "data"]


def test_a_library_of_an_older_version_is_copied_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old" / DATABASE_NAME
    old.parent.mkdir()
    connection = sqlite3.connect(old, isolation_level=None)
    monkeypatch.setattr("service.store.migrations.MIGRATIONS", MIGRATIONS[:3])
    from service.store.migrations import migrate

    migrate(connection)
    monkeypatch.undo()
    connection.execute("INSERT INTO collections VALUES (1, 'one', 'f', 2, 'none', 0)")
    connection.execute("INSERT INTO points (collection, id, content_hash, payload) VALUES (1, 'a', x'00', '{\"n\":1}')")
    connection.execute("INSERT INTO vectors VALUES (1, zeroblob(8), 1696784233)")
    connection.close()
    before = listing(old.parent)
    assert backup(old.parent, tmp_path / "copy").points == {"one": 1}
    assert listing(old.parent) == before
    restore(tmp_path / "copy", tmp_path / "new")
    assert everything(tmp_path / "new")["one"][0].payload == {"n": 1}


def test_a_dropped_collection_that_is_being_cleared_away_is_no_damage(data: Path, tmp_path: Path) -> None:
    with sqlite3.connect(data / DATABASE_NAME) as connection:
        connection.execute("DELETE FROM collections WHERE name = 'one'")
        connection.execute("DELETE FROM fields WHERE key = 1 AND row < 20")
    connection.close()
    assert backup(data, tmp_path / "copy").points == {"empty": 0, "two": 5}


def test_u14_a_full_disk_is_named_as_the_one_that_is_written_to(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(data, tmp_path / "kept.bak")

    def full(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(copying, "_copy", full)
    with pytest.raises(StorageFull, match=r"new\.bak is full"):
        backup(data, tmp_path / "new.bak")
    with pytest.raises(StorageFull, match=f"other/{DATABASE_NAME} is full"):
        restore(tmp_path / "kept.bak", tmp_path / "other")
