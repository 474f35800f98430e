"""Analysis routes: near-duplicates and outliers of a collection, as jobs."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from service.analysis.duplicates import DuplicateGroup, find_duplicates
from service.analysis.outliers import find_outliers
from service.analysis.point_set import PointSet
from service.api.dependencies import CollectionDep
from service.api.requests import DuplicatesBody, OutliersBody
from service.api.responses import DuplicatesAnswer, OutliersAnswer
from service.api.routes.jobs import JOB_RESPONSES, WaitS, answer_job
from service.api.scopes import ScopedRoute, reads
from service.errors import CollectionEmpty
from service.http.content_type import json_only
from service.library.collection import Collection
from service.library.jobs import Progress, Work
from service.points import Point
from service.store.filters import Filter, Match

router = APIRouter(prefix="/v1/collections/{c}", tags=["analysis"], route_class=ScopedRoute)


@router.post("/duplicates", response_model=DuplicatesAnswer, dependencies=[Depends(json_only)], responses=JOB_RESPONSES)
@reads
async def list_duplicates(
    request: Request, collection: CollectionDep, body: DuplicatesBody, wait_s: WaitS = 10.0
) -> Response:
    """Find groups of near-duplicates as a job: 200 with them, or 202 with the job's id if it takes longer than `wait_s`."""
    return await _as_job(request, collection, "duplicates", lambda p: _duplicates(collection, body, p), wait_s)


@router.post("/outliers", response_model=OutliersAnswer, dependencies=[Depends(json_only)], responses=JOB_RESPONSES)
@reads
async def list_outliers(
    request: Request, collection: CollectionDep, body: OutliersBody, wait_s: WaitS = 10.0
) -> Response:
    """Find the points that stand alone as a job: 200 with them, or 202 with the job's id if it takes longer than `wait_s`."""
    return await _as_job(request, collection, "outliers", lambda p: _outliers(collection, body, p), wait_s)


async def _as_job(request: Request, collection: Collection, kind: str, work: Work, wait_s: float) -> Response:
    if await run_in_threadpool(collection.count) == 0:
        raise _empty(collection)
    return await answer_job(request, kind, work, wait_s)


def _duplicates(collection: Collection, body: DuplicatesBody, progress: Progress) -> dict[str, Any]:
    point_set = _point_set(collection)
    sides = None
    if body.across is not None:
        one, other = (collection.matching(Filter(must=(Match(body.key, (value,)),))) for value in body.across)
        sides = one, other
    found = find_duplicates(point_set, body.threshold, body.limit, progress, body.exact, sides)
    points = collection.by_rows(np.concatenate([point_set.rows[:0], *(group.rows for group in found.groups)]))
    return {
        "groups": [_group(group, points) for group in found.groups],
        "total": found.total,
        "duplicates": found.duplicates,
        "capped": found.capped,
        "points": len(point_set),
        "threshold": body.threshold,
    }


def _group(group: DuplicateGroup, points: dict[int, Point]) -> dict[str, Any]:
    ids = [
        points[row].id for row in group.rows.tolist() if row in points
    ]  # what was deleted meanwhile has no id any more
    return {"size": group.size, "score": group.score, "ids": ids, "labels": group.labels}


def _outliers(collection: Collection, body: OutliersBody, progress: Progress) -> dict[str, Any]:
    point_set = _point_set(collection)
    found = find_outliers(point_set, body.k, body.limit, progress, body.exact)
    points = collection.by_rows(found.rows)
    result = [
        {"id": points[row].id, "score": score, "label": points[row].label}
        for row, score in zip(found.rows.tolist(), found.scores.tolist(), strict=True)
        if row in points
    ]
    return {"result": result, "points": len(point_set)}


def _point_set(collection: Collection) -> PointSet:
    point_set = collection.point_set()
    if not len(point_set):
        raise _empty(collection)
    return point_set


def _empty(collection: Collection) -> CollectionEmpty:
    return CollectionEmpty(f"the collection {collection.name} has no points to compare; put some first.")
