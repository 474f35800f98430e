"""What goes back over the wire as JSON, as /openapi.json documents it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from service.points import Keep


class Answer(BaseModel):
    """A JSON answer."""


class Problem(Answer):
    """An error (RFC 9457); `code` is for programs, `detail` for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str | None = None
    retry_after_s: int | None = None
    errors: list[dict[str, Any]] | None = None


class StatusAnswer(Answer):
    """Whether the service lives or is ready; `checks` says what was looked at."""

    status: str
    checks: dict[str, bool] | None = None


class ModelAnswer(Answer):
    """The model that embeds."""

    model: str
    fingerprint: str
    dimension: int
    architecture: str
    image_size: int
    pooling: str
    outputs: list[str]
    runtime: str
    runtime_reason: str
    precision: str
    self_test_cosine: float
    licence: str
    lineage: str


class EmbeddedItem(Answer):
    """One image's vector, or why there is none."""

    index: int
    embedding: list[Any] | None = None
    error: Problem | None = None


class EmbedAnswer(Answer):
    """Vectors in the order of the images."""

    data: list[EmbeddedItem]
    model: str
    fingerprint: str


class CollectionAnswer(Answer):
    """A collection and its figures; `model_loaded` says whether it takes images now."""

    name: str
    fingerprint: str
    dimension: int
    keep: Keep
    count: int
    labels: int
    labelled: int
    index: str
    measured_recall: float | None
    memory_bytes: int
    model_loaded: bool


class CollectionsAnswer(Answer):
    """All collections."""

    result: list[CollectionAnswer]


class PutItem(Answer):
    """What became of one point."""

    id: str
    status: Literal["created", "unchanged", "replaced"] | None = None
    error: Problem | None = None


class PutAnswer(Answer):
    """What became of each point, in the order of the request."""

    result: list[PutItem]


class PointAnswer(Answer):
    """A stored point."""

    id: str
    label: str | None
    payload: dict[str, Any] | None
    vector: list[float] | None = None


class ScrollAnswer(Answer):
    """A page; `next_cursor` is null on the last."""

    result: list[PointAnswer]
    next_cursor: str | None


class CountAnswer(Answer):
    """How many points."""

    count: int


class DeletedAnswer(Answer):
    """How many points are gone."""

    deleted: int


class HitAnswer(Answer):
    """A point found; `score` is the cosine."""

    id: str
    score: float
    label: str | None
    payload: dict[str, Any] | None = None
    vector: list[float] | None = None


class QueryAnswer(Answer):
    """Points, most similar first."""

    result: list[HitAnswer]


class QueryBatchAnswer(Answer):
    """One result for each query."""

    results: list[list[HitAnswer]]


class ClassProbabilityAnswer(Answer):
    """A class and its share of the vote."""

    label: str
    probability: float


class NeighbourAnswer(Answer):
    """A point that voted."""

    id: str
    score: float
    label: str | None


class ClassifyAnswer(Answer):
    """The vote; `label` is null where the best class stayed below `reject_below`."""

    label: str | None
    probability: float
    classes: list[ClassProbabilityAnswer]
    neighbours: list[NeighbourAnswer]


class ClusteringAnswer(Answer):
    """One finished clustering."""

    clustering: str
    method: str
    clusters: int
    points: int
    seed: int
    created_at: float


class ClusteringsAnswer(Answer):
    """The clusterings of a collection, oldest first."""

    result: list[ClusteringAnswer]


class ClusterAnswer(Answer):
    """One cluster; `cohesion` is the mean cosine of its points to the centroid, `labels` counts them by label."""

    cluster: int
    size: int
    cohesion: float
    medoid: str | None
    representatives: list[str]
    labels: dict[str, int]
    name: str | None


class ClustersAnswer(Answer):
    """The clusters of a clustering."""

    result: list[ClusterAnswer]


class ClusterHitAnswer(Answer):
    """A cluster found by its centroid; `score` is the cosine to it."""

    cluster: int
    score: float
    representatives: list[str]
    name: str | None


class ClusterQueryAnswer(Answer):
    """Clusters, nearest first."""

    result: list[ClusterHitAnswer]


class JobAnswer(Answer):
    """Work in the background; `progress` runs from 0 to 1."""

    id: str
    kind: str
    created_at: float
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: float
    result: dict[str, Any] | None
    error: Problem | None


class JobStarted(Answer):
    """The job that was started; ask `/v1/jobs/{id}` how it goes."""

    job: str


class ClusteringMade(Answer):
    """The clustering that was made inside `wait_s`."""

    clustering: str
