"""Range of the values of grey images of 16 and 32 bits: which is black, and which is white.

Cameras and microscopes store 12 bits in 16, whose white is 4,095: taken for 65,535 it comes out nearly black. A file does not say so,
so a person does; the range is then part of an artifact's preprocessing, and of its fingerprint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

_LEAST, _MOST = -(2**32), 2**32 - 1  # of 32 bits, signed or not, or inverted
EXAMPLE = "0:4095"
ALL_OF_16_BITS = "0:65535"  # what counts where nothing is given; then no 32 bits are taken


@dataclass(frozen=True)
class ValueRange:
    """What is shown as black, and what as white; values beyond are shown as these."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not (isinstance(self.low, int) and isinstance(self.high, int) and _LEAST <= self.low < self.high <= _MOST):
            raise ValueError(f"a range of values is low:high of 32 bits, for instance {EXAMPLE}")

    @classmethod
    def of(cls, text: str) -> Self:
        """Read `low:high`, or `high` alone above 0.

        Raises:
            ValueError: it is neither, or the first is not the smaller one.
        """
        low, colon, high = text.strip().rpartition(":")
        try:
            return cls(int(low) if colon else 0, int(high))
        except ValueError:
            raise ValueError(f"{text!r} is no range of values; give low:high, for instance {EXAMPLE}") from None

    @classmethod
    def unless_all(cls, text: str) -> Self | None:
        """Read a range as `of` does; None where it is what counts anyway."""
        return None if text == ALL_OF_16_BITS else cls.of(text)

    def __str__(self) -> str:
        return f"{self.low}:{self.high}"

    def inverted(self, white: int) -> ValueRange:
        """Return the range of values that were subtracted from `white`."""
        return ValueRange(white - self.high, white - self.low)

    def in_8_bits(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Scale values to 0..255, rounded."""
        scaled = np.nan_to_num(values.astype(np.float32), nan=self.low)
        np.clip(scaled, self.low, self.high, out=scaled)
        scaled -= np.float32(self.low)
        scaled *= np.float32(255) / np.float32(self.high - self.low)
        return np.rint(scaled).astype(np.uint8)
