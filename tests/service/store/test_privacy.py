"""Modes and owners of what a library leaves on the disk, and of what it finds there."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backbone.durable import LOCK_NAME
from service.errors import StorageFailed
from service.http.keys import add_key
from service.library.library import Library
from service.points import NewPoint, hash_vector
from service.store.backup import backup, restore
from service.store.database import DATABASE_NAME, INDEX_FOLDER
from service.store.privacy import take_possession

D = 8
STRANGER = 65_534  # nobody, where there is such a user
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


@pytest.fixture(params=[0o022, 0o000, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def fill(library: Library, count: int = 30) -> None:
    vectors = np.random.default_rng(0).normal(size=(count, D))
    points = [NewPoint(f"{i}", hash_vector(v), v, "label", {"n": i}, b"picture") for i, v in enumerate(vectors)]
    library.create("photos", "f", D)[0].put(points)


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


def is_private(folder: Path) -> bool:
    private = {path: 0o700 if (folder / path).is_dir() else 0o600 for path in modes(folder)}
    return modes(folder) == private


def test_u11_all_that_a_library_writes_is_its_owner_s_alone(
    tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.index.planner.BUILD_POINTS", 10)  # so that there is a main segment
    data, home = tmp_path / "new" / "data", tmp_path / "backups"
    home.mkdir()
    with Library.open(data) as library:
        fill(library)
        while library.collection("photos").stats().building:
            time.sleep(0.01)
        assert len([path for path in modes(data) if path.startswith(f"{INDEX_FOLDER}/1/1/")]) == 3
        assert is_private(data)
        assert {f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm"} <= modes(data).keys()
        backup(data, home / "monday.sqlite3")
    add_key(data, "website", "read")
    restore(home / "monday.sqlite3", tmp_path / "again")
    for folder in (data.parent, home, tmp_path / "again"):
        assert is_private(folder)
        assert stat.S_IMODE((tmp_path / "again").stat().st_mode) == 0o700
    (home / "monday.sqlite3").chmod(0o644)
    backup(data, home / "monday.sqlite3", force=True)
    assert is_private(home)


def test_u11_a_library_that_a_link_leads_to_is_its_owner_s_alone(tmp_path: Path) -> None:
    data, disk = tmp_path / "data", tmp_path / "disk.sqlite3"
    data.mkdir()
    (data / DATABASE_NAME).symlink_to(disk)
    with Library.open(data) as library:
        fill(library)
        assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("disk*")} == {
            disk.name + ending: 0o600 for ending in ("", "-wal", "-shm")
        }


def test_u11_a_backup_is_private_from_its_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Library.open(tmp_path / "data") as library:
        fill(library)
    seen: list[int] = []
    plain = sqlite3.connect

    def connect(path: object, **options: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = plain(path, **options)  # type: ignore[call-overload]
        if str(path).endswith(".tmp"):
            connection.set_trace_callback(lambda _: seen.extend(modes(tmp_path / "out").values()))
        return connection

    monkeypatch.setattr("service.store.backup.sqlite3.connect", connect)
    (tmp_path / "out").mkdir()
    backup(tmp_path / "data", tmp_path / "out" / "copy.sqlite3")
    assert set(seen) == {0o600}


def test_u11_what_everybody_could_read_is_closed_and_what_a_group_may_read_stays(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Library.open(data) as library:
        fill(library)
    (data / INDEX_FOLDER / "1" / "1").mkdir(parents=True)
    (data / "notes.txt").touch(0o644)
    for path, mode in ((data, 0o755), (data / DATABASE_NAME, 0o644), (data / INDEX_FOLDER, 0o755)):
        path.chmod(mode)
    Library.open(data).close()
    assert stat.S_IMODE((data / DATABASE_NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE((data / INDEX_FOLDER).stat().st_mode) == 0o700
    assert stat.S_IMODE(data.stat().st_mode) == 0o755  # it may hold more than the library
    assert stat.S_IMODE((data / "notes.txt").stat().st_mode) == 0o644
    (data / DATABASE_NAME).chmod(0o640)
    with Library.open(data) as library:
        fill(library)
        assert modes(data)[DATABASE_NAME] == modes(data)[f"{DATABASE_NAME}-wal"] == 0o640


OPEN = """
import os, sys
from pathlib import Path
from service.library.library import Library
os.setgroups([])
os.setresgid(int(sys.argv[2]), int(sys.argv[2]), int(sys.argv[2]))
os.setresuid(int(sys.argv[2]), int(sys.argv[2]), int(sys.argv[2]))
from backbone.errors import BackboneError
from service.errors import ServiceError
from dinodex.exits import exit_code
try:
    Library.open(Path(sys.argv[1])).close()
except (ServiceError, BackboneError) as error:
    print(error)
    sys.exit(exit_code(error))
"""


def opened_by(user: int, data: Path) -> tuple[int, str]:
    """Open a library in a process of another user: exit code and what it says."""
    done = subprocess.run([sys.executable, "-c", OPEN, data, str(user)], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.strip()


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A library of a stranger, in a place that strangers reach; pytest's own is its user's alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        data = Path(folder) / "data"
        with Library.open(data) as library:
            fill(library)
        for path in (data, *data.rglob("*")):
            os.chown(path, STRANGER, STRANGER)
        yield data


@as_root
@pytest.mark.parametrize("part", ["", LOCK_NAME, DATABASE_NAME, INDEX_FOLDER, f"{INDEX_FOLDER}/1"])
def test_u11_a_library_of_another_owner_is_named_at_the_start(theirs: Path, part: str) -> None:
    (theirs / INDEX_FOLDER / "1").mkdir(parents=True)
    os.chown(theirs / INDEX_FOLDER, STRANGER, STRANGER)
    os.chown(theirs / part, 0, 0)
    (theirs / part).chmod(0o755 if (theirs / part).is_dir() else 0o644)
    code, said = opened_by(STRANGER, theirs)
    assert code == 74
    assert str(theirs / part) in said
    assert "belongs to the user root (0)" in said
    assert len(said.splitlines()) == 1


@as_root
def test_u11_a_library_is_opened_by_its_owner_and_by_root(theirs: Path) -> None:
    assert opened_by(STRANGER, theirs) == opened_by(0, theirs) == (0, "")


@as_root
def test_u11_a_library_that_its_owner_may_not_write_is_named_at_the_start(theirs: Path) -> None:
    (theirs / DATABASE_NAME).chmod(0o400)
    code, said = opened_by(STRANGER, theirs)
    assert (code, "chmod" in said, DATABASE_NAME in said) == (74, True, True)


@pytest.mark.parametrize(("database", "kept"), [(0o664, 0o660), (0o660, 0o660), (0o640, 0o640), (0o644, 0o600)])
def test_u11_the_index_of_a_library_is_open_to_the_group_that_its_database_is_open_to(
    tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch, database: int, kept: int
) -> None:
    with Library.open(tmp_path):
        pass
    tmp_path.chmod(0o2770)
    (tmp_path / DATABASE_NAME).chmod(database)
    monkeypatch.setattr("service.index.planner.BUILD_POINTS", 10)
    with Library.open(tmp_path) as library:
        fill(library)
        while library.collection("photos").stats().building:
            time.sleep(0.01)
    index = {name: mode for name, mode in modes(tmp_path).items() if name.startswith(INDEX_FOLDER)}
    files = {name: mode for name, mode in index.items() if (tmp_path / name).is_file()}
    group = kept & 0o070
    folders = {mode & 0o777 for name, mode in index.items() if name not in files}
    assert modes(tmp_path)[DATABASE_NAME] == kept
    assert len(files) == 3
    assert set(files.values()) == {kept}
    assert folders == {0o700 | group | group >> 2 & 0o010}
    assert {path.stat().st_mode & stat.S_ISGID for path in tmp_path.rglob("*") if path.is_dir()} == {stat.S_ISGID}


@as_root
def test_u11_a_library_that_a_group_shares_goes_on(theirs: Path) -> None:
    group = 54_321
    for path in (theirs, *theirs.rglob("*")):
        os.chown(path, STRANGER, group)
        path.chmod(0o770 if path.is_dir() else 0o660)
    assert opened_by(group, theirs) == (0, "")  # another user, of that group
    assert opened_by(group + 1, theirs)[0] == 74


def test_u11_what_cannot_be_written_is_an_error_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Library.open(tmp_path / "data") as library:
        fill(library)
    monkeypatch.setattr("service.store.privacy.os.access", lambda path, mode, **_: mode == os.F_OK)
    with pytest.raises(StorageFailed, match=r"chmod u\+rwX"):
        Library.open(tmp_path / "data")


def test_u11_what_vanishes_while_a_library_is_looked_at_is_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Library.open(tmp_path):
        pass
    left = [
        (str(tmp_path / INDEX_FOLDER / "1"), ["gone"], ["built.json"])
    ]  # by the builder of a process that was killed
    monkeypatch.setattr(os, "walk", lambda _: iter(left))
    take_possession(tmp_path / DATABASE_NAME, tmp_path / INDEX_FOLDER)
