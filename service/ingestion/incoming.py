"""An incoming point, on its way into a collection, and the result of its put; shared by the routes, the batch job and its ways in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.points import UNSET, PutStatus, Source, Unset


@dataclass(frozen=True)
class Incoming:
    """A point on its way in: with `image` (encoded bytes) or `vector` [D], and the sha256 of that content."""

    id: str
    content_hash: bytes
    image: bytes | None = None
    vector: NDArray[np.float32] | None = None
    label: str | Unset | None = UNSET
    payload: Mapping[str, Any] | Unset | None = UNSET
    source: Source | None = None


@dataclass(frozen=True)
class PutResult:
    """The result of one incoming point: exactly one of `status` and `error` is set."""

    id: str
    status: PutStatus | None = None
    error: Exception | None = None
