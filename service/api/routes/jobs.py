"""Job routes: how far work is, and stopping it; and the one way in which other routes start it."""

from __future__ import annotations

from typing import Annotated, Any, Final

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from service.api.dependencies import get_service
from service.api.openapi import problems
from service.api.responses import JobAnswer, JobStarted, Problem
from service.api.scopes import ScopedRoute
from service.http.problems import error_of, item_problem
from service.library.jobs import Job, Work

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=ScopedRoute)

WaitS = Annotated[float, Query(ge=0, le=60, description="seconds to wait for the result before answering 202")]

JOB_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {  # of a route that answers with `answer_job`
    202: {"model": JobStarted, "description": "Still running."},
    **problems(404, 409, 415, 422, 503, 507),
}


@router.get("/{job}", responses=problems(404))
async def get_job(request: Request, job: str) -> JobAnswer:
    """Return the state of a job."""
    return _answer(await run_in_threadpool(get_service(request).library.jobs.get, job))


@router.delete("/{job}", responses=problems(404))
async def cancel_job(request: Request, job: str) -> JobAnswer:
    """Ask a job to end: one that waits never starts, one that runs stops soon, one that has ended stays as it is."""
    return _answer(await run_in_threadpool(get_service(request).library.jobs.cancel, job))


async def answer_job(request: Request, kind: str, work: Work, wait_s: float) -> Response:
    """Start work as a job: 200 with its result if it ends within `wait_s`, else 202 with the job's id.

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
    return JSONResponse(job.result) if job.state == "done" else JSONResponse({"job": job.id}, 202)


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
