"""Points, hits and clusters: the types of what goes into a collection and comes out, and the rules of ids, labels and vectors."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from service.errors import (
    DimensionMismatch,
    InvalidId,
    InvalidLabel,
    InvalidName,
    InvalidSource,
    InvalidVector,
    ServiceError,
)

Rows = npt.NDArray[np.int64]

Vector = npt.NDArray[np.float32]  # [D], unit length once stored
Payload = dict[str, Any]  # a JSON object

MAX_ID_CHARS = 512  # longer than any sane relative path, short enough for a URL
MAX_LABEL_CHARS = 512  # the same, so that a file path can serve as a label
MAX_SOURCE_CHARS = 4096  # Linux' PATH_MAX
COLLECTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")  # safe in a URL and in a file name as it stands


class Unset(Enum):
    """The type of UNSET: a field that a request did not mention, as opposed to one it set to null."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET

Keep = Literal["none", "thumbnail", "image"]
PutStatus = Literal["created", "unchanged", "replaced"]


@dataclass(frozen=True)
class Source:
    """The file an indexed point came from: its path, size in bytes and modification time, to see whether it changed.

    `mounted` says whether it lay on another file system than the folder that was indexed, None where that is not known: then its
    disk may be missing when it is not found.
    """

    path: str
    size: int
    mtime_ns: int
    mounted: bool | None = None


@dataclass(frozen=True)
class NewPoint:
    """A point to be put. What is UNSET stays as it is on an existing point and is absent on a new one.

    `vector` [D] need not be normalised. None means "the stored content has this hash": the put only updates label,
    payload and source, and is a PointConflict where that belief is wrong. `picture` is kept as the collection's
    `keep` says (the caller passes the thumbnail or the image accordingly; with "none" it is dropped).
    """

    id: str
    content_hash: bytes
    vector: npt.ArrayLike | None
    label: str | Unset | None = UNSET
    payload: Mapping[str, Any] | Unset | None = UNSET
    picture: bytes | None = None
    source: Source | None = None


@dataclass(frozen=True)
class Point:
    """A stored point; `vector` is [D], unit length, or None where it was not asked for."""

    id: str
    label: str | None
    payload: Payload | None
    vector: Vector | None = None


@dataclass(frozen=True)
class Stored:
    """The record of a point without its content."""

    content_hash: bytes
    label: str | None
    source: Source | None


@dataclass(frozen=True)
class Outcome:
    """The outcome of a put for one point: exactly one of `status` and `error` is set."""

    id: str
    status: PutStatus | None = None
    error: ServiceError | None = None


@dataclass(frozen=True)
class Hit:
    """A search result; `score` is the cosine in [-1, 1]."""

    id: str
    score: float
    label: str | None
    payload: Payload | None = None
    vector: Vector | None = None


@dataclass(frozen=True)
class ClassProbability:
    """One class of a vote and its share of it."""

    label: str
    probability: float


@dataclass(frozen=True)
class Classification:
    """The kNN vote on one query: `label` is None where `probability` stayed below `reject_below`.

    `classes` holds every class that got a vote, most probable first; `neighbours` the labelled points that voted.
    """

    label: str | None
    probability: float
    classes: tuple[ClassProbability, ...]
    neighbours: tuple[Hit, ...]


@dataclass(frozen=True)
class CollectionStats:
    """Figures of a collection: points, which index answers and how well, its memory, distinct labels and labelled points.

    `measured_recall` is None where the index is exact; `tail` counts the points that are compared one by one beside the main
    segment; `building` says whether a new main segment is on its way.
    """

    points: int
    index: str
    measured_recall: float | None
    memory_bytes: int
    tail: int
    building: bool
    labels: int
    labelled: int


@dataclass(frozen=True)
class Clustering:
    """One finished clustering: its clusters, the noise points there are now, the `points` there were when it was made.

    `parameters` says how: of k-means `k`, and where that was "auto" the sizes of the `sample` and the `sweep` (a list of `k` and
    `score`); of hdbscan `min_size` and `sample`.
    """

    id: str
    method: str
    clusters: int
    noise: int
    points: int
    seed: int
    created_at: float  # seconds since the epoch
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Cluster:
    """One cluster of a clustering and the members that are there now; medoid and representatives are those nearest to the
    centroid.

    `cohesion` is the mean cosine of the members to the centroid, None where there is none; `labels` counts them by label.
    """

    cluster: int
    size: int
    cohesion: float | None
    medoid: str | None
    representatives: tuple[str, ...]
    labels: dict[str, int]
    name: str | None


@dataclass(frozen=True)
class ClusterOutlier:
    """A point far from its centroid: its cluster, or None for noise, and the cosine to the nearest centroid."""

    point: Point
    cluster: int | None
    score: float


@dataclass(frozen=True)
class ClusterHit:
    """A cluster found by its centroid; `score` is the cosine to it."""

    cluster: int
    score: float
    representatives: tuple[str, ...]
    name: str | None


def check_id(value: object) -> str:
    """Return a point id: 1 to 512 characters, none of them a control character. Raises InvalidId."""
    return _text(value, MAX_ID_CHARS, "id", InvalidId)


def check_label(value: object) -> str | None:
    """Return a label: None, or text under the rule of ids. Raises InvalidLabel."""
    return None if value is None else _text(value, MAX_LABEL_CHARS, "label", InvalidLabel)


def check_source(value: Source | None) -> Source | None:
    """Return a source whose path can be kept as text and whose numbers fit 64 bits. Raises InvalidSource."""
    if value is None:
        return None
    _text(value.path, MAX_SOURCE_CHARS, "source path", InvalidSource)
    if not (0 <= value.size < 2**63 and -(2**63) <= value.mtime_ns < 2**63):
        raise InvalidSource("the source's size and modification time must fit 64 bits.")
    return value


def kept_time(time_ns: int) -> int:
    """Return a file's time as the 64 bits of the store keep it: modulo 2**64.

    It serves only to be compared with itself: clocks that are set wrong write years from which it would not fit.
    """
    return (time_ns + 2**63) % 2**64 - 2**63


def check_collection_name(value: object) -> str:
    """Return a collection name: 1 to 128 letters, digits, `_`, `.`, `-`, a letter or digit first. Raises InvalidName."""
    if not isinstance(value, str) or not COLLECTION_NAME.fullmatch(value):
        raise InvalidName("a collection name is 1 to 128 of A-Z a-z 0-9 _ . - and starts with a letter or digit.")
    return value


def _text(value: object, max_chars: int, what: str, error: type[ServiceError]) -> str:
    if not isinstance(value, str):
        raise error(f"The {what} must be a string.")
    if not 1 <= len(value) <= max_chars:
        raise error(f"The {what} has {len(value)} characters; 1 to {max_chars} are allowed.")
    # Cc: control characters; Cs: lone surrogates, which no UTF-8 text can hold (they come from undecodable file names)
    if not value.isascii() or not value.isprintable():
        bad = next((c for c in value if unicodedata.category(c) in ("Cc", "Cs")), None)
        if bad is not None:
            raise error(f"The {what} contains the character U+{ord(bad):04X}, which cannot be kept; leave it out.")
    return value


def unit_rows(
    vectors: npt.ArrayLike | Sequence[npt.ArrayLike], dimension: int, names: Sequence[int] | None = None
) -> Vector:
    """Return vectors [B, D] as float32 rows of unit length.

    Raises DimensionMismatch or InvalidVector for the first row that has another length than `dimension`, that holds
    NaN, Inf or anything but numbers, or that is zero; the message names its index, or what `names` says instead.
    """
    indices = range(len(vectors)) if names is None else names  # type: ignore[arg-type]
    rows = [_numbers(vector, i, dimension) for i, vector in zip(indices, vectors, strict=True)]  # type: ignore[arg-type]
    if not rows:
        return np.empty((0, dimension), np.float32)
    stacked = np.stack(rows)
    largest = np.abs(stacked).max(axis=1, keepdims=True)  # NaN where a row holds one
    for what, bad in (("holds NaN or Inf", ~np.isfinite(largest)), ("is zero and has no direction", largest == 0)):
        if bad.any():
            index = indices[int(np.flatnonzero(bad)[0])]
            raise InvalidVector(f"vector {index} {what}; send finite numbers that are not all zero.")
    stacked /= largest  # so that squares neither overflow nor vanish
    stacked /= np.linalg.norm(stacked, axis=1, keepdims=True)
    return stacked.astype(np.float32)


def _numbers(vector: npt.ArrayLike, index: int, dimension: int) -> npt.NDArray[np.float64]:
    try:
        numbers = np.asarray(vector)
    except ValueError:  # a ragged list
        numbers = np.asarray("ragged")
    if numbers.dtype.kind not in "fiu":  # text, objects, booleans, complex numbers; integers beyond 64 bits are objects
        raise InvalidVector(f"vector {index} is not a list of numbers.")
    if numbers.shape != (dimension,):
        raise DimensionMismatch(
            f"vector {index} has shape {list(numbers.shape)}; this collection's vectors have {dimension} numbers."
        )
    return numbers.astype(np.float64)


def hash_image(data: bytes) -> bytes:
    """Return the content hash of an image's bytes; never that of a vector, whatever the bytes."""
    digest = hashlib.sha256(b"image\0")
    digest.update(data)  # not joined: a photograph need not be copied to be hashed
    return digest.digest()


def hash_vector(vector: npt.ArrayLike) -> bytes:
    """Return the content hash of a ready vector [D], as sent, at the precision it is stored with (float32)."""
    return hashlib.sha256(b"vector\0" + np.asarray(vector, dtype="<f4").tobytes()).digest()
