"""Answer types: the JSON of the service as the client reads it.

Unknown fields are ignored, so that an older client reads a newer service.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class Model(BaseModel):
    """The loaded model."""

    fingerprint: str
    dimension: int
    architecture: str
    image_size: int
    pooling: str
    runtime: str
    precision: str
    licence: str


class CollectionStats(BaseModel):
    """A collection."""

    name: str
    fingerprint: str
    dimension: int
    keep: Literal["none", "thumbnail", "image"]
    count: int


class Point(BaseModel):
    """A stored point."""

    id: str
    label: str | None = None
    payload: dict[str, Any] | None = None
    vector: list[float] | None = None


class Refusal(BaseModel):
    """Why one item of a batch was refused."""

    code: str
    detail: str
    status: int | None = None


class PutOutcome(BaseModel):
    """The outcome of one point of a batch."""

    id: str
    status: Literal["created", "unchanged", "replaced"] | None = None
    error: Refusal | None = None


class Hit(BaseModel):
    """One neighbour."""

    id: str
    score: float
    label: str | None = None
    payload: dict[str, Any] | None = None
    vector: list[float] | None = None


class ClassProbability(BaseModel):
    """One class of a vote."""

    label: str
    probability: float


class Classification(BaseModel):
    """A vote of the nearest labelled neighbours; `label` is None where it was rejected."""

    label: str | None
    probability: float
    classes: list[ClassProbability]
    neighbours: list[Hit]


class ClassScore(BaseModel):
    """How one class fares in an evaluation; `precision` is None where it was never predicted."""

    label: str
    support: int
    precision: float | None
    recall: float
    f1: float


class ConfusionCell(BaseModel):
    """How many points with a label were predicted to be `predicted`."""

    label: str
    predicted: str | None
    count: int


class CalibrationBin(BaseModel):
    """The predictions with a probability above `lower` and up to `upper`."""

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None


class Calibration(BaseModel):
    """How far probability and accuracy are apart; `error` is the expected calibration error."""

    error: float
    bins: list[CalibrationBin]


class Evaluation(BaseModel):
    """Leave-one-out over the labelled points: accuracies by k, and the rest at the best k."""

    points: int
    classes: int
    accuracy: dict[int, float]
    balanced_accuracy: dict[int, float]
    best_k: int
    per_class: list[ClassScore]
    confusion: list[ConfusionCell]
    confusion_cells: int
    calibration: Calibration


class LabelIssue(BaseModel):
    """A point whose neighbours vote for another label; `probability` is that of its own."""

    id: str
    label: str
    suggested: str
    probability: float
    suggested_probability: float
    neighbours: list[Hit]


class LabelIssues(BaseModel):
    """The most suspicious points first; `suspected` of the `checked` labelled points are in all."""

    result: list[LabelIssue]
    suspected: int
    checked: int


class Page(BaseModel):
    """One page of points."""

    result: list[Point]
    next_cursor: str | None = None


class Cluster(BaseModel):
    """One cluster."""

    cluster: int
    size: int
    cohesion: float | None  # None while it is empty
    medoid: str | None
    representatives: list[str]
    labels: dict[str, int]
    name: str | None = None


class ClusterHit(BaseModel):
    """One cluster near a query."""

    cluster: int
    score: float
    representatives: list[str]


class ClusterOutlier(BaseModel):
    """A point far from its cluster's centroid; `cluster` is None for noise."""

    id: str
    score: float
    cluster: int | None
    label: str | None = None
    payload: dict[str, Any] | None = None


class DuplicateGroup(BaseModel):
    """Near-duplicates: how many, the first of them, and how similar the least similar is to the one nearest to it."""

    size: int
    score: float
    ids: list[str]
    labels: dict[str, int]


class Duplicates(BaseModel):
    """The largest groups of near-duplicates; `total` groups hold `duplicates` of the `points` in all."""

    groups: list[DuplicateGroup]
    total: int
    duplicates: int
    points: int


class Outlier(BaseModel):
    """A point that stands alone; `score` is the mean of 1 - cosine over its nearest neighbours."""

    id: str
    score: float
    label: str | None = None


class Outliers(BaseModel):
    """The points that stand alone most, farthest first."""

    result: list[Outlier]


class Clusterings(BaseModel):
    """The clusterings of a collection, oldest first."""

    result: list[dict[str, Any]]


class Clustered(BaseModel):
    """The id of a clustering that was made."""

    clustering: str


class Deleted(BaseModel):
    """How many points were deleted."""

    deleted: int


class Counted(BaseModel):
    """How many points there are."""

    count: int


class Started(BaseModel):
    """The id of a job that goes on."""

    job: str


class Job(BaseModel):
    """Long work."""

    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: float | None = None
    result: dict[str, Any] | None = None
    error: Refusal | None = None
