"""What a run measures, written to RUN/metrics.csv and RUN/tensorboard."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard.writer import SummaryWriter

COLUMNS = (
    "step",  # steps taken
    "epoch",
    "images",  # images seen
    "elapsed_s",
    "loss",  # this and the next four: mean over the steps since the last row
    "dino",
    "ibot",
    "koleo",
    "teacher_entropy",  # over ln K; near 1 or near 0 is collapse
    "gradient_norm",  # before clipping
    "lr",
    "weight_decay",
    "momentum",
    "teacher_temperature",
    "images_per_s",
    "data_wait",  # share of the time spent waiting for images
    "skipped",  # steps not taken because the loss was not finite
    "corrupt",  # image files left out so far
    "knn",  # accuracy on held-out images; empty between the scores
)
_COUNTERS = ("step", "epoch", "images", "elapsed_s")


class Metrics:
    """Rows in a CSV file, each flushed as it is written, and the same as TensorBoard curves."""

    def __init__(self, run: Path) -> None:
        self._file = (run / "metrics.csv").open("w", newline="", encoding="utf-8")
        self._rows = csv.DictWriter(self._file, COLUMNS)
        self._rows.writeheader()
        self._curves = SummaryWriter(str(run / "tensorboard"))

    def write(self, values: Mapping[str, float | int | None]) -> None:
        """Add a row; columns without a value stay empty, an unknown one is a mistake."""
        self._rows.writerow({key: _short(value) for key, value in values.items() if value is not None})
        self._file.flush()
        for key, value in values.items():
            if value is not None and key not in _COUNTERS:
                self._curves.add_scalar(key, value, int(values["step"] or 0))

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._curves.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _short(value: float | int) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"
