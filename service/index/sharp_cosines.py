"""Cosines near 1 and -1, sharpened: computed anew in double precision, so that equal vectors score 1.0 and no score lies beyond.

FAISS adds the D products of two float32 vectors in float32. The sum is off by up to D u (u = 2^-24; Higham 2002, section 3.1), and a
unit vector's own rounding adds some u more: so two copies of a vector may score 0.99999994, or 1.0000001. Whether vectors are equal
is what people ask of a cosine near 1, and there float32 still has 2^-24 to tell. So what lies within that bound of 1 or -1 is computed
from the same vectors in float64 and rounded once: 1.0 are copies, and what embeds a copy with another rounding (an angle below
0.00024); anything farther keeps its place below.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from service.points import Vector

UNIT_ROUNDOFF = 2.0**-24
OF_THE_LENGTHS = 4  # times the unit roundoff: both vectors' lengths, each within 2 of 1
BLOCK = 4096  # pairs at a time: two times 12 MB of 384-d vectors


def may_be_of_copies(scores: Vector, dimension: int) -> npt.NDArray[np.bool_]:
    """Say which cosines, added in float32, may be those of equal vectors or, below 0, of opposite ones."""
    may: npt.NDArray[np.bool_] = np.abs(scores) >= 1.0 - (dimension + OF_THE_LENGTHS) * UNIT_ROUNDOFF
    return may


def sharpen(scores: Vector, queries: Vector, vectors: Vector, at: npt.NDArray[np.int64]) -> bool:
    """Correct cosines [Q, k] of queries [Q, D] and the vectors [N, D] that stand at [Q, k], in place; at -1 there is none.

    Return whether any was near enough to 1 or -1 to be looked at; their order may be another then.
    """
    near = may_be_of_copies(scores, queries.shape[1]) & (at >= 0)
    if not near.any():
        return False
    rows, columns = np.nonzero(near)
    for start in range(0, len(rows), BLOCK):
        row, column = rows[start : start + BLOCK], columns[start : start + BLOCK]
        scores[row, column] = _cosines(queries[row], vectors[at[row, column]])
    return True


def _cosines(one: Vector, other: Vector) -> Vector:
    """Return the cosines [B] of vectors [B, D] and others [B, D], row by row."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    products, lengths, others = (np.einsum("bd,bd->b", *pair) for pair in ((one, other), (one, one), (other, other)))
    return np.clip(products / np.sqrt(lengths * others), -1.0, 1.0).astype(np.float32)
