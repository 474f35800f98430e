"""The point set of a collection in one snapshot, for work that looks at all of it: rows, labels, and each point's neighbours.

Positions count the points from 0 in the order of their rows. Vectors come a block at a time, so that a million points need
no second copy in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.analysis.progress import timed_blocks
from service.index.positions import Positions
from service.index.row_set import RowSet
from service.index.vector_index import NO_ROW, Rows, View
from service.points import Vector

BLOCK_POINTS = 4096  # 6 MB of 384-d vectors: large enough for matrix products, small enough to report progress often
UNLABELLED = -1  # stands in `labels` for a point that has none
NO_NEIGHBOUR = -1  # stands in place of a position where a point has fewer neighbours than asked for


@dataclass(frozen=True)
class PointSet:
    """The points of a collection as one commit left them.

    rows: int64 [B], ascending; labels: int64 [B], an index into `names`, or UNLABELLED; names: the labels in use, sorted.
    """

    rows: Rows
    labels: npt.NDArray[np.int64]
    names: tuple[str, ...]
    view: View

    def __len__(self) -> int:
        return len(self.rows)

    def labelled(self) -> PointSet:
        """Return only the points that bear a label."""
        return self.subset(np.flatnonzero(self.labels != UNLABELLED))

    def subset(self, positions: Positions) -> PointSet:
        """Return only the points at these positions (ascending)."""
        return PointSet(self.rows[positions], self.labels[positions], self.names, self.view)

    def vectors(self, start: int = 0, stop: int | None = None) -> Vector:
        """Return float32 [b, D], the unit vectors at positions start to stop."""
        return self.view.vectors(self.rows[start:stop])

    def blocks(self) -> Iterator[tuple[int, Vector]]:
        """Yield all vectors, BLOCK_POINTS at a time: the position of the first one, and float32 [b, D]."""
        for start in range(0, len(self), BLOCK_POINTS):
            yield start, self.vectors(start, start + BLOCK_POINTS)

    def neighbours(self, k: int, exact: bool = False) -> Iterator[tuple[int, Vector, Positions]]:
        """Yield each point's `k` nearest others among these points (capped at what is there), a block at a time.

        The index answers, as it does searches, or a comparison with every vector where `exact` is asked for.

        Yields: the position of the block's first point, cosines float32 [b, k] and positions int64 [b, k], best first, equal
            cosines by position; NO_NEIGHBOUR with -inf where there are fewer.
        """
        among = None if len(self) == len(self.view) else RowSet(self.rows)
        k = min(k, max(len(self) - 1, 0))
        for start, stop in timed_blocks(len(self)):
            vectors = self.vectors(start, stop)
            scores, rows = self.view.search(vectors, k + 1, among, exact)
            own = rows == self.rows[start:stop, None]
            # where equal vectors stand before it, a point may not be among its own nearest: then the last is one too many
            own[~own.any(axis=1), -1] = True
            shape = (len(vectors), rows.shape[1] - 1)
            scores, rows = scores[~own].reshape(shape), rows[~own].reshape(shape)
            positions = np.where(rows == NO_ROW, NO_NEIGHBOUR, np.searchsorted(self.rows, rows))
            yield start, scores, positions
