import contextlib
import resource
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from faults.library.disks import mounted

from service.errors import LibraryInvalid, PointMissing, ServiceError, StorageFailed, StorageFull
from service.store.database import Database
from service.store.migrations import MIGRATIONS

READERS = 30  # at a time


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "library.sqlite3")
    database.write(lambda c: c.execute("CREATE TABLE notes (note TEXT UNIQUE)"))
    yield database
    database.close()


def note(text: str) -> Callable[[sqlite3.Connection], int]:
    return lambda c: c.execute("INSERT INTO notes VALUES (?)", (text,)).rowcount


def notes(database: Database) -> list[str]:
    with database.snapshot() as connection:
        return [n for (n,) in connection.execute("SELECT note FROM notes ORDER BY note")]


def test_each_commit_is_synced(database: Database) -> None:
    assert database.write(lambda c: c.execute("PRAGMA synchronous").fetchone()) == (2,)
    assert database.write(lambda c: c.execute("PRAGMA journal_mode").fetchone()) == ("wal",)


def test_a_refused_write_takes_nothing_of_its_group_with_it(database: Database) -> None:
    begun, go = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        begun.set()
        go.wait(10)

    def refuse(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO notes VALUES ('half')")
        raise PointMissing("no such point")

    first = database.write_later(hold)
    begun.wait(10)  # what is queued from here on shares one transaction
    group = [database.write_later(work) for work in (note("a"), refuse, note("a"), note("b"))]
    go.set()
    first.result(10)
    assert group[0].result(10) == group[3].result(10) == 1
    with pytest.raises(PointMissing):
        group[1].result(10)
    with pytest.raises(sqlite3.IntegrityError):
        group[2].result(10)
    assert notes(database) == ["a", "b"]


def test_derived_state_follows_each_commit_before_its_write_returns(database: Database) -> None:
    derived: list[str] = []
    for text in "abc":
        database.write(note(text), lambda _, text=text: derived.append(text))  # type: ignore[misc]
        assert derived[-1] == text
    with pytest.raises(sqlite3.IntegrityError):
        database.write(note("a"), lambda _: derived.append("refused"))
    assert derived == ["a", "b", "c"]


def test_an_aligned_reader_sees_records_and_derived_state_of_one_commit(database: Database) -> None:
    derived: list[str] = []
    done = threading.Event()
    torn: list[tuple[int, int]] = []

    def read() -> None:
        while not done.is_set():
            with database.aligned(lambda: len(derived)) as (connection, count):
                stored = connection.execute("SELECT count(*) FROM notes").fetchone()[0]
            if stored != count:
                torn.append((stored, count))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for i in range(200):
        database.write(note(str(i)), lambda _: derived.append("x"))
    done.set()
    for reader in readers:
        reader.join()
    assert not torn


def test_a_full_disk_refuses_the_write_and_later_ones_work_again(database: Database) -> None:
    used = database.write(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
    database.write(lambda c: c.execute(f"PRAGMA max_page_count = {used + 2}"))
    with pytest.raises(StorageFull):
        database.write(note("x" * 10**6))
    assert database.writable
    assert notes(database) == []
    database.write(note("small"))
    database.write(lambda c: c.execute("PRAGMA max_page_count = 1000000"))
    database.write(note("y" * 10**6))
    assert len(notes(database)) == 2


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Let writes beyond `size` bytes of a file fail with EFBIG: a disk that does not take what it is given."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_after_a_disk_error_only_reads_are_answered_until_a_restart(database: Database, tmp_path: Path) -> None:
    database.write(note("kept"))
    with files_limited_to(500_000), pytest.raises(StorageFailed):
        database.write(note("x" * 10**6))
    assert not database.writable
    with pytest.raises(StorageFailed, match="restart"):
        database.write(note("later"))
    assert notes(database) == ["kept"]
    database.close()
    again = Database(tmp_path / "library.sqlite3")
    again.write(note("later"))
    assert notes(again) == ["kept", "later"]
    again.close()


def test_derived_state_that_could_not_follow_answers_no_more(database: Database) -> None:
    def fail(_: object) -> None:
        raise MemoryError

    with pytest.raises(StorageFailed, match="restart"):
        database.write(note("a"), fail)
    with pytest.raises(StorageFailed), database.aligned(lambda: None):
        pass
    assert not database.writable


def test_a_closed_database_says_so(database: Database) -> None:
    database.close()
    database.close()
    with pytest.raises(StorageFailed, match="closed"):
        database.write(note("a"))
    with pytest.raises(StorageFailed, match="closed"), database.snapshot():
        pass


def test_closing_finishes_the_writes_that_wait(tmp_path: Path) -> None:
    database = Database(tmp_path / "library.sqlite3")
    database.write(lambda c: c.execute("CREATE TABLE notes (note TEXT UNIQUE)"))
    writes = [database.write_later(note(str(i))) for i in range(300)]
    database.close()
    assert all(w.result(0) == 1 for w in writes)


def test_many_commits_are_folded_into_the_database(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.database.CHECKPOINT_BYTES", 2 * 10**6)
    for i in range(200):
        database.write(note(f"{i}" + "x" * 20_000))
    assert (tmp_path / "library.sqlite3").stat().st_size > 10**6
    assert (tmp_path / "library.sqlite3-wal").stat().st_size < 3 * 10**6  # without folding: 18 * 10**6


def test_a_log_that_a_reader_holds_up_grows_and_is_folded_again_only_when_it_has_grown(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.database.CHECKPOINT_BYTES", 10**6)
    folds = 0
    checkpoint = Database._checkpoint

    def counted(self: Database, mode: Literal["PASSIVE", "TRUNCATE"]) -> None:
        nonlocal folds
        folds += 1
        checkpoint(self, mode)

    monkeypatch.setattr(Database, "_checkpoint", counted)
    with database.snapshot() as connection:
        connection.execute("SELECT count(*) FROM notes").fetchone()
        for i in range(300):
            database.write(note(f"{i}" + "x" * 10_000))
        assert 3 <= folds <= (tmp_path / "library.sqlite3-wal").stat().st_size / 10**6
    for i in range(300, 400):
        database.write(note(f"{i}" + "x" * 10_000))
    assert (tmp_path / "library.sqlite3-wal").stat().st_size < 2 * 10**6
    assert len(notes(database)) == 400


def test_a_full_disk_gets_back_what_the_log_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted(tmp_path / "disk", "size=4m") as disk, contextlib.closing(Database(disk / "library.sqlite3")) as full:
        full.write(lambda c: c.execute("CREATE TABLE notes (note TEXT UNIQUE)"))

        def fill() -> None:
            for i in range(10**6):
                full.write(note(f"{i}" + "x" * 100))

        with pytest.raises(StorageFull):
            fill()
        before = len(notes(full))
        assert (disk / "library.sqlite3-wal").stat().st_size < 10**5
        assert before > 10_000
        full.write(lambda c: c.execute("DELETE FROM notes WHERE note LIKE '%0'"))
        for i in range(100):
            full.write(note(f"more {i}"))
        assert len(notes(full)) == before + 100


def test_a_write_that_meets_damage_says_so_and_is_the_last(tmp_path: Path, database: Database) -> None:
    def meet(_: sqlite3.Connection) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    with pytest.raises(LibraryInvalid, match="restore a backup"):
        database.write(meet)
    assert not database.writable
    with pytest.raises(StorageFailed, match="damaged"):
        database.write(note("later"))


@pytest.mark.parametrize("change", ["replace(sql, 'fingerprint TEXT', 'fingerprinu TEXT')", "CAST(x'63ff' AS TEXT)"])
def test_a_library_whose_schema_is_damaged_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "library.sqlite3"
    Database(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(f"UPDATE sqlite_schema SET sql = {change} WHERE name = 'collections'")
        connection.commit()
    with pytest.raises(LibraryInvalid):
        Database(path)


def test_an_index_that_somebody_added_is_theirs(tmp_path: Path) -> None:
    path = tmp_path / "library.sqlite3"
    Database(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE INDEX theirs ON points (source_path)")
    Database(path).close()


def test_readers_give_their_connections_back(tmp_path: Path, database: Database) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("needs /proc")

    def read() -> None:
        for _ in range(20):
            notes(database)

    threads = [threading.Thread(target=read) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ours = str((tmp_path / "library.sqlite3").resolve())
    # SQLite itself keeps a closed connection's descriptor for the next one while others hold locks on the file (POSIX locks
    # are a process's): so there may be one for each reader that there was at a time, and the writer's, but not one a read.
    assert sum(str(descriptor.resolve()) == ours for descriptor in descriptors.iterdir()) <= READERS + 1


@pytest.mark.parametrize("content", [b"not a database, but long enough to have a header" * 100, b"\0" * 8192])
def test_a_file_that_is_no_library_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "library.sqlite3"
    path.write_bytes(content)
    with pytest.raises(LibraryInvalid):
        Database(path)


def test_the_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "library.sqlite3"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(LibraryInvalid, match="another program"):
        Database(path)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "library.sqlite3"
    Database(path).close()
    with sqlite3.connect(path) as newer:
        newer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    newer.close()
    with pytest.raises(LibraryInvalid, match="newer"):
        Database(path)


def test_a_directory_that_cannot_hold_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="absent"):
        Database(tmp_path / "absent" / "library.sqlite3")


@pytest.mark.parametrize("text", [b"some-id", b"some-label", b"some-name", b"some-key"])
def test_a_text_that_differs_between_a_table_and_its_index_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "library.sqlite3"
    database = Database(path)
    for statement in (
        "INSERT INTO collections VALUES (1, 'some-name', 'f', 3, 'none', 0)",
        "INSERT INTO points (collection, id, content_hash, label) VALUES (1, 'some-id', x'', 'some-label')",
        "INSERT INTO field_names VALUES (1, 1, 'some-key')",
    ):
        database.write(lambda c, statement=statement: c.execute(statement))  # type: ignore[misc]
    database.close()
    whole = path.read_bytes()
    places = [at for at in range(len(whole)) if whole.startswith(text, at)]
    assert len(places) == 2
    for at in places:
        path.write_bytes(whole[:at] + b"z" + whole[at + 1 :])
        with pytest.raises(LibraryInvalid, match="damaged"):
            Database(path)
    path.write_bytes(whole)
    Database(path).close()
