"""Clustering routes: make one, look into it, name its clusters, find the cluster nearest to an image, delete it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from service.analysis.grouping import Recipe
from service.api.cancellation import run_search
from service.api.dependencies import CollectionDep
from service.api.openapi import body, problems, reference
from service.api.query_vectors import read_target
from service.api.requests import ClusteringBody, ClusterNameBody, ClusterQueryBody, ClusterQueryParams, Limit
from service.api.responses import (
    ClusterAnswer,
    ClusteringMade,
    ClusteringsAnswer,
    ClusterOutliersAnswer,
    ClusterQueryAnswer,
    ClustersAnswer,
    ScrollAnswer,
)
from service.api.routes.jobs import JOB_RESPONSES, WaitS, answer_job
from service.api.scopes import ScopedRoute, reads
from service.errors import CollectionEmpty
from service.http.content_type import json_only
from service.library.jobs import Progress
from service.points import Cluster, ClusterHit, Clustering

router = APIRouter(prefix="/v1/collections/{c}/clusterings", tags=["clusters"], route_class=ScopedRoute)

ClusteringId = Annotated[str, Path(description="the clustering's id")]
ClusterNumber = Annotated[int, Path(ge=0, lt=2**63, description="the cluster's number")]


@router.post(
    "",
    response_model=ClusteringMade,
    dependencies=[Depends(json_only)],
    responses=JOB_RESPONSES,
)
async def create_clustering(
    request: Request, collection: CollectionDep, body: ClusteringBody, wait_s: WaitS = 10.0
) -> Response:
    """Cluster all points as a job: 200 with the clustering's id, or 202 with the job's if it takes longer than `wait_s`."""
    if await run_in_threadpool(collection.count) == 0:
        raise CollectionEmpty(f"the collection {collection.name} has no points to group; put some first.")

    recipe = Recipe(body.method, body.k, body.seed, body.min_size)

    def work(progress: Progress) -> dict[str, str]:
        return {"clustering": collection.cluster(recipe, progress)}

    return await answer_job(request, "clustering", work, wait_s)


@router.get("", response_model=ClusteringsAnswer, responses=problems(404))
async def list_clusterings(collection: CollectionDep) -> dict[str, list[Clustering]]:
    """List the finished clusterings, oldest first."""
    return {"result": await run_in_threadpool(collection.clusterings)}


@router.delete("/{g}", status_code=204, responses=problems(404, 503, 507))
async def delete_clustering(collection: CollectionDep, g: ClusteringId) -> None:
    """Delete a clustering with its names; the points stay."""
    await run_in_threadpool(collection.delete_clustering, g)


@router.get("/{g}/clusters", response_model=ClustersAnswer, responses=problems(404))
async def list_clusters(collection: CollectionDep, g: ClusteringId) -> dict[str, list[Cluster]]:
    """List the clusters of a clustering."""
    return {"result": await run_in_threadpool(collection.clusters, g)}


@router.get(
    "/{g}/clusters/{n}/points",
    response_model=ScrollAnswer,
    response_model_exclude_unset=True,
    responses=problems(404, 422),
)
async def list_cluster_points(
    collection: CollectionDep,
    g: ClusteringId,
    n: ClusterNumber,
    limit: Annotated[Limit, Query()] = 100,
    cursor: Annotated[str | None, Query(description="the `next_cursor` of the page before")] = None,
) -> dict[str, object]:
    """List the points of a cluster, nearest to its centroid first."""
    points, following = await run_in_threadpool(collection.cluster_points, g, n, limit, cursor)
    return {"result": points, "next_cursor": following}


@router.get("/{g}/outliers", response_model=ClusterOutliersAnswer, responses=problems(404, 422))
async def list_cluster_outliers(
    collection: CollectionDep,
    g: ClusteringId,
    cluster: Annotated[int | None, Query(ge=0, lt=2**63, description="of this cluster only")] = None,
    limit: Annotated[Limit, Query()] = 100,
    cursor: Annotated[str | None, Query(description="the `next_cursor` of the page before")] = None,
) -> dict[str, object]:
    """List the points that fit worst, farthest from the nearest centroid first: the noise of hdbscan, of k-means all points."""
    found, following = await run_in_threadpool(collection.cluster_outliers, g, cluster, limit, cursor)
    return {"result": found, "next_cursor": following}


@router.patch(
    "/{g}/clusters/{n}",
    response_model=ClusterAnswer,
    dependencies=[Depends(json_only)],
    responses=problems(404, 415, 422, 503, 507),
)
async def name_cluster(collection: CollectionDep, g: ClusteringId, n: ClusterNumber, body: ClusterNameBody) -> Cluster:
    """Give a cluster a name, or take it away."""
    return await run_in_threadpool(collection.rename_cluster, g, n, body.name)


@router.post(
    "/{g}/query",
    response_model=ClusterQueryAnswer,
    responses=problems(400, 404, 409, 413, 415, 422, 503, 504),
    openapi_extra=body(json=reference(ClusterQueryBody), image=True),
)
@reads
async def query_clusters(
    request: Request, collection: CollectionDep, g: ClusteringId, params: Annotated[ClusterQueryParams, Query()]
) -> dict[str, list[ClusterHit]]:
    """Return the clusters nearest to an image, a vector or a stored point."""
    options, start = await read_target(request, collection, ClusterQueryBody, params)

    def work() -> list[ClusterHit]:
        return collection.query_clusters(g, start.read(collection), options.limit)

    return {"result": await run_search(request, work)}
