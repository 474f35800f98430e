"""Jobs: long work that one thread does in the background, one after the other, with a record of how it ended.

States: queued -> running -> done | failed | cancelled. The record is durable, the work is not: what was queued or running
when the service stopped is `failed` at the next start and says so.
"""

from __future__ import annotations

import json
import queue
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from service.analysis.progress import Progress
from service.errors import JobCancelled, JobMissing, ServiceError, Storage, StorageFailed
from service.store.database import Database

__all__ = ["Job", "Jobs", "Progress", "Work"]

State = Literal["queued", "running", "done", "failed", "cancelled"]
Work = Callable[[Progress], Any]  # returns the result, which must be JSON; its progress calls raise JobCancelled

KEPT_JOBS = 1_000  # finished jobs that can still be asked for; each is a few hundred bytes
RESTARTED = {"code": "service_restarted", "detail": "The service was restarted before the job ended; start it again."}


@dataclass(frozen=True)
class Job:
    """A job as it is now; `progress` is 0 to 1, `result` is set when done, `error` has `code` and `detail`."""

    id: str
    kind: str
    state: State
    progress: float = 0.0
    result: Any = None
    error: dict[str, str] | None = None
    created_at: float = field(default_factory=time.time)  # seconds since the epoch

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("done", "failed", "cancelled")


@dataclass
class _Entry:
    """A job of this run of the service, its work, and the two events in its life that others wait on."""

    job: Job
    work: Work
    cancelled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)


class Jobs:
    """The jobs of a library and the one thread that does them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._entries: dict[str, _Entry] = {}  # the jobs of this run that have not ended, and those ending now
        self._lock = threading.Lock()
        self._stopping = False
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        database.write(_mark_restarted)
        self._thread = threading.Thread(target=self._run, name="library-jobs", daemon=True)
        self._thread.start()

    def submit(self, kind: str, work: Work) -> Job:
        """Queue work and return its job. `work` gets a `progress` call, which it must make now and then."""
        entry = _Entry(Job(uuid.uuid4().hex, kind, "queued"), work)
        with self._lock:
            if self._stopping:
                raise StorageFailed("the library is closed.")
            self._entries[entry.job.id] = entry
        try:
            self._keep(entry.job)
        except ServiceError:
            with self._lock:
                del self._entries[entry.job.id]
            raise
        self._queue.put(entry)
        return entry.job

    def get(self, id: str) -> Job:  # noqa: A002
        """Return a job as it is now. Raises JobMissing."""
        with self._lock:
            if id in self._entries:
                return self._entries[id].job
        with self._database.snapshot() as connection:
            return _read(connection, id)

    def wait(self, id: str, timeout_s: float) -> Job:  # noqa: A002
        """Return a job once it has ended, or as it is after `timeout_s`. Raises JobMissing."""
        with self._lock:
            entry = self._entries.get(id)
        if entry is None:
            return self.get(id)
        entry.ended.wait(timeout_s)
        return entry.job

    def cancel(self, id: str) -> Job:  # noqa: A002
        """Ask a job to end: a queued one never starts, a running one stops at its next progress call. Raises JobMissing.

        A job that has ended stays as it is.
        """
        with self._lock:
            entry = self._entries.get(id)
            if entry is None or entry.job.ended:
                ended = True
            else:
                ended = False
                entry.cancelled.set()
                waiting = entry.job.state == "queued"
                if waiting:
                    entry.job = replace(entry.job, state="cancelled")
        if entry is None or ended:
            return self.get(id)
        if waiting:
            self._end(entry)
        return entry.job

    def close(self) -> None:
        """Stop the running job at its next progress call; it and those queued will say that the service restarted."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
            for entry in self._entries.values():
                entry.cancelled.set()
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            with self._lock:
                if self._stopping or entry.job.ended:
                    continue
                entry.job = replace(entry.job, state="running")
            self._do(entry)

    def _do(self, entry: _Entry) -> None:
        def progress(share: float) -> None:
            if entry.cancelled.is_set():
                raise JobCancelled("the job was cancelled.")
            entry.job = replace(entry.job, progress=max(entry.job.progress, min(share, 1.0)))

        try:
            self._keep(entry.job)
            result = entry.work(progress)
            json.dumps(result, allow_nan=False)
            ended = replace(entry.job, state="done", progress=1.0, result=result)
        except JobCancelled:
            if self._stopping:
                return  # the record still says running, which the next start turns into failed
            ended = replace(entry.job, state="cancelled")
        except ServiceError as error:
            ended = replace(entry.job, state="failed", error={"code": error.code, "detail": str(error)})
        except Exception as error:  # noqa: BLE001 - boundary: a surprise ends this job, not the thread
            detail = f"The job failed unexpectedly ({type(error).__name__}: {error})."
            ended = replace(entry.job, state="failed", error={"code": "internal_error", "detail": detail})
        with self._lock:
            entry.job = ended
        self._end(entry)

    def _end(self, entry: _Entry) -> None:
        try:
            self._keep(entry.job)
        except Storage:
            # its outcome cannot be recorded: it stays known to this run, and the next one says that it was restarted
            entry.ended.set()
            return
        with self._lock:
            self._entries.pop(entry.job.id, None)
        entry.ended.set()

    def _keep(self, job: Job) -> None:
        self._database.write(lambda connection: _write(connection, job))


def _write(connection: sqlite3.Connection, job: Job) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO jobs (job, kind, state, progress, result, error, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            job.id,
            job.kind,
            job.state,
            job.progress,
            None if job.result is None else json.dumps(job.result),
            None if job.error is None else json.dumps(job.error),
            job.created_at,
        ),
    )


def _read(connection: sqlite3.Connection, id_: str) -> Job:
    found = connection.execute(
        "SELECT job, kind, state, progress, result, error, created_at FROM jobs WHERE job = ?", (id_,)
    ).fetchone()
    if found is None:
        raise JobMissing("no job has this id; jobs that ended long ago are forgotten.")
    job, kind, state, progress, result, error, created_at = found
    return Job(
        job,
        kind,
        state,
        progress,
        None if result is None else json.loads(result),
        None if error is None else json.loads(error),
        created_at,
    )


def _mark_restarted(connection: sqlite3.Connection) -> None:
    connection.execute(
        "UPDATE jobs SET state = 'failed', error = ? WHERE state IN ('queued', 'running')", (json.dumps(RESTARTED),)
    )
    connection.execute(
        "DELETE FROM jobs WHERE job NOT IN (SELECT job FROM jobs ORDER BY created_at DESC LIMIT ?)", (KEPT_JOBS,)
    )
