"""Response models: the JSON of answers, as /openapi.json documents it.

They are read from the library's own types (`service/points.py`), attribute by attribute: a route returns a `Cluster`, and the
`ClusterAnswer` that it declares is what goes over the wire. Where a field has another name or place there, it says so here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AliasPath, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from service.points import Keep


def _numbers(vector: object) -> object:
    return vector.tolist() if isinstance(vector, np.ndarray) else vector


VectorOut = Annotated[list[float] | None, BeforeValidator(_numbers)]


class Answer(BaseModel):
    """A JSON answer."""

    model_config = ConfigDict(from_attributes=True)


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
    """Whether the service lives or is ready; `checks` says what was looked at, `detail` what is wrong where that is known."""

    status: str
    checks: dict[str, bool] | None = None
    detail: str | None = None


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


class Embedding(Answer):
    """One image's vector, in OpenAI's shape; a text is base64 of float32 numbers, little-endian."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(Answer):
    """What OpenAI counts; images have no tokens."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class EmbeddingsAnswer(Answer):
    """Vectors in OpenAI's shape."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class OpenAiModel(Answer):
    """A loaded model in OpenAI's shape, with what binds collections to it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "dinodex"
    fingerprint: str
    dimension: int


class OpenAiModels(Answer):
    """The loaded models in OpenAI's shape."""

    object: Literal["list"] = "list"
    data: list[OpenAiModel]


class OpenAiFault(Answer):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None = None
    code: str


class OpenAiError(Answer):
    """An error in OpenAI's shape."""

    error: OpenAiFault


class CollectionAnswer(Answer):
    """A collection and its figures; `model_loaded` says whether it takes images now.

    `index` is what answers: `exact`, `hnsw` or `ivf`; `measured_recall` the share of the ten nearest that it finds, null where it is
    exact; `tail` the points that are compared one by one until the next index is built, and `building` whether one is.
    """

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
    tail: int
    building: bool
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
    vector: VectorOut = None

    @model_validator(mode="after")
    def _without_vector(self) -> Self:
        """Count a vector that was not asked for as unset, so that routes leave it out with what is unset."""
        if self.vector is None:
            self.model_fields_set.discard("vector")
        return self


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
    vector: VectorOut = None


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


class ClassScoreAnswer(Answer):
    """How one class fares; precision is null where it was never predicted."""

    label: str
    support: int
    precision: float | None
    recall: float
    f1: float


class ConfusionCellAnswer(Answer):
    """How many points with this label were predicted to be `predicted`; null where the index found no neighbour."""

    label: str
    predicted: str | None
    count: int


class CalibrationBinAnswer(Answer):
    """The predictions with a probability above `lower` and up to `upper`: their mean probability, and the share of right ones."""

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None


class CalibrationAnswer(Answer):
    """`error` is the expected calibration error: how far probability and accuracy are apart, weighted by count."""

    error: float
    bins: list[CalibrationBinAnswer]


class EvaluationAnswer(Answer):
    """Leave-one-out over `points` labelled points of `classes` classes; accuracies by k, balanced is the mean recall of the classes.

    `best_k` has the highest accuracy (where the vote is balanced the highest balanced accuracy), of equal ones the smallest;
    `per_class`, `confusion` and `calibration` belong to it. `per_class` lists the most frequent classes, 1,000 at most, `confusion`
    the most frequent pairs, 5,000 at most of the `confusion_cells` that are not zero.
    """

    points: int
    classes: int
    accuracy: dict[str, float]
    balanced_accuracy: dict[str, float]
    best_k: int
    per_class: list[ClassScoreAnswer]
    confusion: list[ConfusionCellAnswer]
    confusion_cells: int
    calibration: CalibrationAnswer


class LabelIssueAnswer(Answer):
    """A point whose neighbours vote for another label; `probability` is that of its own, `neighbours` the nearest ten that voted."""

    id: str
    label: str
    suggested: str
    probability: float
    suggested_probability: float
    neighbours: list[NeighbourAnswer]


class LabelIssuesAnswer(Answer):
    """The most suspicious points first; `suspected` of the `checked` labelled points are in all."""

    result: list[LabelIssueAnswer]
    suspected: int
    checked: int


class SweepItem(Answer):
    """One k of a sweep; `score` is the mean simplified silhouette, at most 1, greater is better."""

    k: int
    score: float


def _parameter(name: str) -> Any:  # noqa: ANN401 - pydantic's
    """Return where a clustering keeps one of its parameters."""
    return Field(validation_alias=AliasPath("parameters", name))


class ClusteringAnswer(Answer):
    """One finished clustering: how it was made, the points there were then, the noise there is now.

    Of k-means `k`, and where that was "auto" the `sweep` that chose it; of hdbscan `min_size`. `sample` is the number of points
    that the sweep or hdbscan looked at.
    """

    clustering: Annotated[str, Field(validation_alias="id")]
    method: str
    clusters: int
    noise: int
    points: int
    seed: int
    created_at: float
    k: Annotated[int | Literal["auto"] | None, _parameter("k")] = None
    min_size: Annotated[int | None, _parameter("min_size")] = None
    sample: Annotated[int | None, _parameter("sample")] = None
    sweep: Annotated[list[SweepItem] | None, _parameter("sweep")] = None


class ClusteringsAnswer(Answer):
    """The clusterings of a collection, oldest first."""

    result: list[ClusteringAnswer]


class ClusterAnswer(Answer):
    """One cluster as it is now; `cohesion` is the mean cosine of its points to the centroid, `labels` counts them by label."""

    cluster: int
    size: int
    cohesion: float | None
    medoid: str | None
    representatives: list[str]
    labels: dict[str, int]
    name: str | None


class ClustersAnswer(Answer):
    """The clusters of a clustering."""

    result: list[ClusterAnswer]


class ClusterOutlierAnswer(Answer):
    """A point far from its centroid; `cluster` is null for noise, `score` the cosine to the nearest centroid."""

    id: Annotated[str, Field(validation_alias=AliasPath("point", "id"))]
    score: float
    cluster: int | None
    label: Annotated[str | None, Field(validation_alias=AliasPath("point", "label"))]
    payload: Annotated[dict[str, Any] | None, Field(validation_alias=AliasPath("point", "payload"))]


class ClusterOutliersAnswer(Answer):
    """A page, the least fitting first; `next_cursor` is null on the last."""

    result: list[ClusterOutlierAnswer]
    next_cursor: str | None


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


class DuplicateGroupAnswer(Answer):
    """Points that a chain of near-duplicates connects; `ids` are the first 100, the ones put first in front.

    `score` is the cosine by which the least similar of them hangs on the one nearest to it; `labels` counts them by label.
    """

    size: int
    score: float
    ids: list[str]
    labels: dict[str, int]


class DuplicatesAnswer(Answer):
    """The largest groups, of equal ones the most similar first; `total` groups hold `duplicates` of the `points` in all.

    `capped` points have 512 duplicates or more, of which the nearest 512 were looked at: a group may then be in parts.
    """

    groups: list[DuplicateGroupAnswer]
    total: int
    duplicates: int
    capped: int
    points: int
    threshold: float


class OutlierAnswer(Answer):
    """A point; `score` is the mean of 1 - cosine over its nearest neighbours, 0 to 2."""

    id: str
    score: float
    label: str | None


class OutliersAnswer(Answer):
    """Of `points`, those that stand most alone, greatest score first."""

    result: list[OutlierAnswer]
    points: int
