import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import CollectionEmpty, JobMissing, StorageFailed
from service.library.jobs import Jobs, Progress
from service.store.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "library.sqlite3")
    yield database
    database.close()


@pytest.fixture
def jobs(database: Database) -> Iterator[Jobs]:
    jobs = Jobs(database)
    yield jobs
    jobs.close()


class Gate:
    """Work that says when it runs, and goes on when it is let."""

    def __init__(self) -> None:
        self.running, self.go = threading.Event(), threading.Event()

    def __call__(self, progress: Progress) -> str:
        progress(0.25)
        self.running.set()
        self.go.wait(10)
        progress(0.75)
        return "end"


def test_a_job_is_queued_then_runs_then_is_done_with_its_result(jobs: Jobs) -> None:
    gate = Gate()
    first, second = jobs.submit("test", gate), jobs.submit("test", lambda _: {"clustering": "7"})
    gate.running.wait(10)
    assert (jobs.get(first.id).state, jobs.get(first.id).progress) == ("running", 0.25)
    assert jobs.get(second.id).state == "queued"
    assert jobs.wait(first.id, 0.01).state == "running"
    gate.go.set()
    ended = jobs.wait(first.id, 10)
    assert (ended.state, ended.progress, ended.result, ended.error) == ("done", 1.0, "end", None)
    assert jobs.wait(second.id, 10).result == {"clustering": "7"}
    assert jobs.get(first.id) == ended


def test_a_job_that_raises_is_failed_with_its_code(jobs: Jobs) -> None:
    def refuse(_: Progress) -> None:
        raise CollectionEmpty("nothing there")

    job = jobs.wait(jobs.submit("test", refuse).id, 10)
    assert (job.state, job.error) == ("failed", {"code": "collection_empty", "detail": "nothing there"})


@pytest.mark.parametrize("work", [lambda _: 1 / 0, lambda _: object(), lambda _: float("nan")])
def test_a_surprise_ends_the_job_and_not_the_thread(jobs: Jobs, work: object) -> None:
    job = jobs.wait(jobs.submit("test", work).id, 10)  # type: ignore[arg-type]
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["code"] == "internal_error"
    assert jobs.wait(jobs.submit("test", lambda _: 1).id, 10).state == "done"


def test_a_running_job_is_cancelled_at_its_next_progress_call(jobs: Jobs) -> None:
    gate = Gate()
    job = jobs.submit("test", gate)
    gate.running.wait(10)
    jobs.cancel(job.id)
    gate.go.set()
    assert jobs.wait(job.id, 10).state == "cancelled"
    assert jobs.cancel(job.id).state == "cancelled"


def test_a_queued_job_that_is_cancelled_never_starts(jobs: Jobs) -> None:
    gate, started = Gate(), threading.Event()
    first, second = jobs.submit("test", gate), jobs.submit("test", lambda _: started.set())
    assert jobs.cancel(second.id).state == "cancelled"
    gate.go.set()
    assert jobs.wait(first.id, 10).state == "done"
    assert jobs.wait(jobs.submit("test", lambda _: 1).id, 10).state == "done"
    assert jobs.get(second.id).state == "cancelled"
    assert not started.is_set()


def test_a_job_that_has_ended_cannot_be_cancelled(jobs: Jobs) -> None:
    job = jobs.wait(jobs.submit("test", lambda _: 5).id, 10)
    assert jobs.cancel(job.id) == job


@pytest.mark.parametrize("id_", ["", "x", "\0", "'; --", "é" * 1000])
def test_an_unknown_job_is_missing(jobs: Jobs, id_: str) -> None:
    for ask in (jobs.get, jobs.cancel, lambda i: jobs.wait(i, 1)):
        with pytest.raises(JobMissing):
            ask(id_)


def test_jobs_that_a_stop_interrupted_say_so_and_ended_ones_are_remembered(tmp_path: Path) -> None:
    path = tmp_path / "library.sqlite3"
    database = Database(path)
    jobs, gate = Jobs(database), Gate()
    done = jobs.wait(jobs.submit("test", lambda _: [1]).id, 10)
    running, queued = jobs.submit("test", gate), jobs.submit("test", lambda _: 1)
    gate.running.wait(10)
    gate.go.set()
    jobs.close()
    jobs.close()
    with pytest.raises(StorageFailed):
        jobs.submit("test", lambda _: 1)
    database.close()

    database = Database(path)
    jobs = Jobs(database)
    assert jobs.get(done.id) == done
    # the running one may have reached its end before it was told to stop
    for id_, allowed in ((running.id, {"failed", "done"}), (queued.id, {"failed"})):
        job = jobs.get(id_)
        assert job.state in allowed
        assert job.state == "done" or (job.error is not None and job.error["code"] == "service_restarted")
    jobs.close()
    database.close()
