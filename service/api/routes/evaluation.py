"""Evaluation routes: how good the vote is, and the labels that it contradicts; leave-one-out over the labelled points, as jobs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from service.analysis.label_issues import LabelIssue, find_label_issues
from service.analysis.leave_one_out import evaluate
from service.analysis.point_set import PointSet
from service.analysis.voting import LEAST_VOTERS, Voting
from service.api.dependencies import CollectionDep
from service.api.requests import EvaluateBody, LabelIssuesBody
from service.api.responses import EvaluationAnswer, LabelIssuesAnswer
from service.api.routes.jobs import JOB_RESPONSES, WaitS, answer_job
from service.api.scopes import ScopedRoute, reads
from service.errors import CollectionEmpty
from service.http.content_type import json_only
from service.library.collection import Collection
from service.library.jobs import Progress, Work
from service.points import Point
from service.store.filters import LABELLED, Filter, parse_filter

router = APIRouter(prefix="/v1/collections/{c}", tags=["evaluation"], route_class=ScopedRoute)


@router.post(
    "/classify/evaluate", response_model=EvaluationAnswer, dependencies=[Depends(json_only)], responses=JOB_RESPONSES
)
@reads
async def evaluate_classification(
    request: Request, collection: CollectionDep, body: EvaluateBody, wait_s: WaitS = 10.0
) -> Response:
    """Classify every labelled point by the others, as a job: 200 with the figures, or 202 with its id after `wait_s`."""
    condition = _filter(body)

    def work(progress: Progress) -> dict[str, Any]:
        return asdict(evaluate(_labelled(collection, condition), body.ks, _voting(body), body.exact, progress))

    return await _as_job(request, collection, "evaluate", condition, work, wait_s)


@router.post(
    "/label-issues", response_model=LabelIssuesAnswer, dependencies=[Depends(json_only)], responses=JOB_RESPONSES
)
@reads
async def list_label_issues(
    request: Request, collection: CollectionDep, body: LabelIssuesBody, wait_s: WaitS = 10.0
) -> Response:
    """Find labels that the neighbours outvote, as a job: 200 with them, or 202 with its id after `wait_s`."""
    condition = _filter(body)
    return await _as_job(
        request, collection, "label-issues", condition, lambda p: _label_issues(collection, body, condition, p), wait_s
    )


async def _as_job(
    request: Request, collection: Collection, kind: str, condition: Filter, work: Work, wait_s: float
) -> Response:
    if await run_in_threadpool(collection.count, condition) < LEAST_VOTERS:
        raise CollectionEmpty(
            f"the collection {collection.name} has fewer than two labelled points to compare; put more with labels first."
        )
    return await answer_job(request, kind, work, wait_s)


def _filter(body: EvaluateBody | LabelIssuesBody) -> Filter:
    return Filter(must=(LABELLED,) if body.filter is None else (LABELLED, parse_filter(body.filter)))


def _voting(body: EvaluateBody | LabelIssuesBody) -> Voting:
    return Voting(body.temperature, body.weighting, body.balance)


def _labelled(collection: Collection, condition: Filter) -> PointSet:
    """Return the labelled points that a filter selects."""
    point_set = collection.point_set()
    if condition == Filter(must=(LABELLED,)):
        return point_set.labelled()
    # a point that lost its label in between is out of both
    rows = np.isin(point_set.rows, collection.matching(condition), assume_unique=True)
    return point_set.subset(np.flatnonzero(rows)).labelled()


def _label_issues(
    collection: Collection, body: LabelIssuesBody, condition: Filter, progress: Progress
) -> dict[str, Any]:
    point_set = _labelled(collection, condition)
    found = find_label_issues(point_set, body.k, body.limit, _voting(body), body.exact, progress)
    rows = [row for issue in found.issues for row in (issue.row, *(each.row for each in issue.neighbours))]
    points = collection.by_rows(np.array(rows, np.int64))
    result = [_issue(issue, points) for issue in found.issues if issue.row in points]
    return {"result": result, "suspected": found.suspected, "checked": found.checked}


def _issue(issue: LabelIssue, points: dict[int, Point]) -> dict[str, Any]:
    """Return an issue with ids; what was deleted meanwhile has none any more."""
    neighbours = [
        {"id": points[each.row].id, "score": each.score, "label": each.label}
        for each in issue.neighbours
        if each.row in points
    ]
    return {
        "id": points[issue.row].id,
        "label": issue.label,
        "suggested": issue.suggested,
        "probability": issue.probability,
        "suggested_probability": issue.suggested_probability,
        "neighbours": neighbours,
    }
