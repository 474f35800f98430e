"""A set of rows that searches are confined to, which remembers where its rows stand in a main segment."""

from __future__ import annotations

import numpy as np

from service.index.positions import Positions, PositionSet
from service.index.segments import Segment
from service.points import Rows

# From here on a bitmap of the whole segment is smaller than the positions, and quicker to combine with tombstones.
BITMAP_SHARE = 1 / 64


class RowSet:
    """Ascending rows, every one of them in the view that is searched."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._known: tuple[Rows, PositionSet] | None = None  # a main segment's rows, and where ours stand there

    def __len__(self) -> int:
        return len(self.rows)

    def within(self, segment: Segment) -> PositionSet:
        """Return where the rows stand in a segment."""
        known = self._known  # read once: other threads may set it meanwhile
        if known is not None and known[0] is segment.rows:
            return known[1]
        positions = PositionSet(segment.count, positions=segment.positions(self.rows))
        if len(positions) > BITMAP_SHARE * segment.count:
            positions = PositionSet(segment.count, bitmap=positions.bitmap(), size=len(positions))
        if segment.fixed:
            self._known = (segment.rows, positions)
        return positions

    def changed(self, rows: Rows, selected: Rows) -> RowSet:
        """Return this set after `rows` (ascending) came, went or changed, of which `selected` belong to it now.

        Where they stand in the main segment is brought up to date with it, rather than all looked up again.
        """
        gone = np.zeros(len(self.rows), np.bool_)
        gone[_positions(self.rows, rows)] = True
        kept = self.rows[~gone]
        after = RowSet(np.insert(kept, np.searchsorted(kept, selected), selected))
        known = self._known
        if known is not None:
            after._known = (known[0], known[1].changed(_positions(known[0], rows), _positions(known[0], selected)))
        return after


def _positions(rows: Rows, wanted: Rows) -> Positions:
    """Return where `wanted` (ascending) stand in `rows` (ascending), leaving out those that are not there."""
    if not len(rows):
        return np.empty(0, np.int64)
    at = np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)
    here: Positions = at[rows[at] == wanted]
    return here
