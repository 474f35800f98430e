"""A set of positions in a segment, as positions or as a bitmap, whichever is at hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]  # places in an order, from 0: of vectors in a segment, of points in a set
Bitmap = npt.NDArray[np.uint8]  # bit i, least significant first, says something of position i


class PositionSet:
    """Some of a segment's positions, in whichever form is at hand; the other is made when it is asked for."""

    def __init__(
        self, count: int, *, positions: Positions | None = None, bitmap: Bitmap | None = None, size: int | None = None
    ) -> None:
        self.count = count  # of the segment
        self._positions = positions
        self._bitmap = bitmap
        if size is None and bitmap is not None:
            size = int(np.bitwise_count(bitmap).sum())
        self._size = len(positions) if positions is not None else size or 0

    def __len__(self) -> int:
        return self._size

    def among(self, alive: Bitmap) -> PositionSet:
        """Return those of these positions whose bit in `alive` is set."""
        if self._bitmap is not None:
            return PositionSet(self.count, bitmap=self._bitmap & alive)
        at = self.positions()
        return PositionSet(self.count, positions=at[bits(alive, at)])

    def changed(self, off: Positions, on: Positions) -> PositionSet:
        """Return these positions without `off` and then with `on` (both ascending)."""
        bitmap = self.bitmap().copy()
        np.bitwise_and.at(bitmap, off >> 3, ~_bit(off))
        np.bitwise_or.at(bitmap, on >> 3, _bit(on))
        return PositionSet(self.count, bitmap=bitmap)

    def positions(self) -> Positions:
        """Return the positions, ascending."""
        if self._positions is None:
            assert self._bitmap is not None
            self._positions = np.flatnonzero(unpacked(self._bitmap, self.count))
        return self._positions

    def bitmap(self) -> Bitmap:
        """Return the bitmap of the segment's length."""
        if self._bitmap is None:
            mask = np.zeros(self.count, np.bool_)
            mask[self._positions] = True
            self._bitmap = packed(mask)
        return self._bitmap


def packed(mask: npt.NDArray[np.bool_]) -> Bitmap:
    """Return a bool mask [n] as a bitmap."""
    return np.packbits(mask, bitorder="little")


def unpacked(bitmap: Bitmap, count: int) -> npt.NDArray[np.bool_]:
    """Return the first `count` bits of a bitmap as bool."""
    return np.unpackbits(bitmap, count=count, bitorder="little").view(np.bool_)


def bits(bitmap: Bitmap, at: Positions) -> npt.NDArray[np.bool_]:
    """Return the bits of a bitmap at these positions."""
    return (bitmap[at >> 3] >> (at & 7).astype(np.uint8) & 1).astype(np.bool_)


def _bit(at: Positions) -> Bitmap:
    return np.uint8(1) << (at & 7).astype(np.uint8)
