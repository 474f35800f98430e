"""Jobs: how long work goes, and stopping it."""

from __future__ import annotations

from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool

from service.api.dependencies import get_service
from service.api.openapi import problems
from service.api.responses import JobAnswer, Problem
from service.api.scopes import ScopedRoute
from service.http.problems import error_of, item_problem
from service.library.jobs import Job, Work

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=ScopedRoute)

WaitS = Annotated[float, Query(ge=0, le=60, description="seconds to wait for the result before answering 202")]


@router.get("/{job}", responses=problems(404))
async def get_job(request: Request, job: str) -> JobAnswer:
    """Return the state of a job."""
    return _answer(await run_in_threadpool(get_service(request).library.jobs.get, job))


@router.delete("/{job}", responses=problems(404))
async def cancel_job(request: Request, job: str) -> JobAnswer:
    """Ask a job to end: one that waits never starts, one that runs stops soon, one that has ended stays as it is."""
    return _answer(await run_in_threadpool(get_service(request).library.jobs.cancel, job))


async def start(request: Request, kind: str, work: Work, wait_s: float) -> Job:
    """Queue work and return its job, ended if it took no longer than `wait_s`.

    Raises:
        ServiceError: it failed or was cancelled in that time.
    """
    service = get_service(request)
    jobs = service.library.jobs

    def run() -> Job:
        return jobs.wait(jobs.submit(kind, work).id, wait_s)

    job = await anyio.to_thread.run_sync(run, limiter=service.waiting_threads)
    if job.error is not None:
        raise error_of(job.error["code"], job.error["detail"])
    return job


def _answer(job: Job) -> JobAnswer:
    error = None if job.error is None else Problem(**item_problem(error_of(job.error["code"], job.error["detail"])))
    return JobAnswer(
        id=job.id,
        kind=job.kind,
        created_at=job.created_at,
        state=job.state,
        progress=job.progress,
        result=job.result,
        error=error,
    )
