"""What the service answers, as types. Unknown fields are ignored, so that an older client reads a newer service."""

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
    """What became of one point of a batch."""

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


class Page(BaseModel):
    """One page of points."""

    result: list[Point]
    next_cursor: str | None = None


class Cluster(BaseModel):
    """One cluster."""

    cluster: int
    size: int
    cohesion: float
    medoid: str | None
    representatives: list[str]
    labels: dict[str, int]
    name: str | None = None


class ClusterHit(BaseModel):
    """One cluster near a query."""

    cluster: int
    score: float
    representatives: list[str]


class Job(BaseModel):
    """Long work."""

    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: float | None = None
    result: dict[str, Any] | None = None
    error: Refusal | None = None
