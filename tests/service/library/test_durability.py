"""The promise of the README: a write that was answered survives SIGKILL and power loss; one that was not is wholly there or absent.

Short forms of what `make faults` does many times (tests/faults): SIGKILL, lost power, damaged files, full and failing disks, races.
"""

import os
import shutil
import subprocess
from pathlib import Path
from random import Random

import numpy as np
import pytest
from faults.library.damage import judge_many
from faults.library.disks import Injected, fail_calls, fill_up, mounted, needs_strace, use_up
from faults.library.harmed_segments import harm_all
from faults.library.history import check, do, opened
from faults.library.kills import kill_many
from faults.library.power import lose_power
from faults.library.races import race
from faults.library.small import small

from backbone import Artifact
from backbone.durable import lock_directory
from dinodex.demo_service import serve_command
from service.analysis.grouping import Recipe
from service.library.jobs import Job
from service.library.library import Library
from service.points import NewPoint, hash_vector
from service.store.database import DATABASE_NAME

SEED = 20_261_122
KILLS = 30
LOCKED, IO = 75, 74


def test_s44_every_acknowledged_write_survives_sigkill_and_none_is_half_there(tmp_path: Path) -> None:
    found = kill_many(tmp_path / "data", KILLS, SEED)
    assert found.kills == KILLS
    assert found.acknowledged > KILLS


@needs_strace
def test_s48_every_acknowledged_write_survives_the_loss_of_what_was_not_flushed(tmp_path: Path) -> None:
    assert lose_power(tmp_path, writes=12, seed=SEED, share=0.04).disks > 20


def test_s48_a_log_cut_off_anywhere_leaves_whole_writes_and_all_that_were_synced(tmp_path: Path) -> None:
    """Power loss: what was written after the last fsync may be missing or garbage, from any byte on."""
    live, wal = tmp_path / "live", f"{DATABASE_NAME}-wal"
    with Library.open(live) as library:
        collection = opened(library)
        synced = [(live / wal).stat().st_size]
        for number in range(12):
            do(collection, 0, number)
            synced.append((live / wal).stat().st_size)
        database, log = (live / DATABASE_NAME).read_bytes(), (live / wal).read_bytes()
    rng = Random(SEED)
    for _ in range(25):
        cut = rng.randrange(synced[0], len(log) + 1)
        tail = rng.choice([b"", b"\0" * 5000, rng.randbytes(5000)])
        crashed = tmp_path / "crashed"
        crashed.mkdir()
        (crashed / DATABASE_NAME).write_bytes(database)
        (crashed / wal).write_bytes(log[:cut] + tail)
        acknowledged = sum(size <= cut for size in synced) - 1
        with Library.open(crashed) as library:
            [writes] = check(library.collection("c"), [acknowledged], SEED)
            do(library.collection("c"), 0, writes)
        shutil.rmtree(crashed)


def test_s48_a_damaged_library_never_gives_a_wrong_answer(tmp_path: Path) -> None:
    assert judge_many(tmp_path, cut_share=0.03, flips=40, seed=SEED).wrong == []


def test_s49_a_main_segment_that_was_harmed_is_not_read_by_faiss_and_changes_no_answer(tmp_path: Path) -> None:
    assert harm_all(tmp_path) > 20


def test_s46_a_full_disk_refuses_puts_answers_searches_and_takes_puts_again_when_there_is_room(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=16m") as disk:
        assert fill_up(disk, times=8, seed=SEED).acknowledged > 8


def test_s46_a_job_on_a_full_disk_fails_with_a_reason_and_works_when_there_is_room(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3_000, 8))
    with mounted(tmp_path / "disk", "size=16m") as disk, Library.open(disk / "data", threads=1) as library:
        collection, _ = library.create("c", "f", 8, keep="none")
        for start in range(0, len(x), 300):
            collection.put([NewPoint(f"{i}", hash_vector(x[i]), x[i]) for i in range(start, start + 300)])

        def cluster() -> Job:
            job = library.jobs.submit("clusterings", lambda p: collection.cluster(Recipe(k=5), p))
            return library.jobs.wait(job.id, 60)

        use_up(disk / "filler", left=100_000)  # its members need more
        job = cluster()
        assert job.state == "failed"
        assert job.error is not None
        assert job.error["code"] == "storage_full"
        assert collection.clusterings() == []
        assert [hits[0].id for hits in collection.query(x[:3], 1)] == ["0", "1", "2"]
        (disk / "filler").unlink()
        assert cluster().state == "done"
        assert [c.points for c in collection.clusterings()] == [3_000]


@needs_strace
def test_s47_after_a_flush_that_failed_nothing_is_acknowledged_until_a_restart_that_finds_all_that_was(
    tmp_path: Path,
) -> None:
    found = Injected()
    assert fail_calls(tmp_path, "fsync,fdatasync", "EIO", [1, 3, 4, 7], writes=8, found=found)
    assert found.while_opening
    assert found.refused_writes


def test_s50_searches_beside_writes_see_one_snapshot_after_the_other(tmp_path: Path) -> None:
    assert race(tmp_path / "data", seconds=3).searches > 10


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "DINODEX_ALLOW_ANONYMOUS": "1", "DINODEX_RUNTIME": "torch", "DINODEX_THREADS": "1"}


def exit_of_serve(artifact: Path, data: Path, environment: dict[str, str]) -> tuple[int, str]:
    command = serve_command(artifact, data)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stderr


def test_s50_a_second_process_on_a_directory_ends_with_75_and_leaves_the_first_alone(
    tiny_artifact: Artifact, tmp_path: Path, environment: dict[str, str]
) -> None:
    with small(), Library.open(tmp_path / "data") as library:
        do(opened(library), 0, 0)
        code, said = exit_of_serve(tiny_artifact.path, tmp_path / "data", environment)
        assert code == LOCKED
        assert "is in use by another dinodex process" in said
        do(opened(library), 0, 1)
        assert check(opened(library), [2]) == [2]
    lock_directory(tmp_path / "data").release()


def test_a_read_only_volume_ends_with_74_and_a_reason(
    tiny_artifact: Artifact, tmp_path: Path, environment: dict[str, str]
) -> None:
    with mounted(tmp_path / "disk", "size=16m") as disk:
        with Library.open(disk / "data") as library:
            do(opened(library), 0, 0)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        code, said = exit_of_serve(tiny_artifact.path, disk / "data", environment)
        assert code == IO
        assert "Read-only file system" in said
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        with Library.open(disk / "data") as library:
            assert check(opened(library), [1]) == [1]
