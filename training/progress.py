"""The progress display of a run: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 15.0  # in a log file: often enough to see that it lives, and 240 lines an hour
# Name and form of each value that is shown, in this order.
_SHOWN = {
    "loss": "loss {:.3f}",
    "dino": "dino {:.3f}",
    "ibot": "ibot {:.3f}",
    "koleo": "koleo {:.3f}",
    "knn": "knn {:.1%}",
    "two_view_recall": "two-view {:.1%}",
    "images_per_s": "images/s {:.0f}",
    "data_wait": "data wait {:.0%}",
    "memory_gib": "memory {:.1f} GiB",
}
LEAST_WAIT = 0.05  # share of the time; waiting less for images is normal, and nothing to act on


class Reporter:
    """Shows progress and single lines on the console."""

    def __init__(self, console: Console | None = None) -> None:
        # Standard error: standard output is for results that another program reads.
        self._console = console or Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._last_line = -LINE_EVERY_S
        self._values: dict[str, float] = {}

    def say(self, line: str) -> None:
        """Print one line, above the bar where there is one."""
        self._console.print(line, soft_wrap=True, markup=False)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            columns = (
                TextColumn("training"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, TextColumn("{task.fields[values]}"), console=self._console)
            self._bar.start()
            self._bar.add_task("training", total=1.0, values="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def show(self, progress: float, step: int, values: Mapping[str, float | int | None]) -> None:
        """Show how far the run is, 0 to 1, and its newest values; those not given keep their last."""
        self._values.update({key: float(value) for key, value in values.items() if value is not None})
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=progress, values=self._text())
        elif (now := time.monotonic()) - self._last_line >= LINE_EVERY_S or progress >= 1.0:
            self._last_line = now
            self.say(f"step {step} ({progress:.0%}): {self._text()}")

    def _text(self) -> str:
        shown = {key: value for key, value in self._values.items() if _tells(key, value)}
        return "  ".join(form.format(shown[key]) for key, form in _SHOWN.items() if key in shown)


def _tells(key: str, value: float) -> bool:
    """Say whether a value is worth its place: a loss that the recipe leaves out is exactly 0."""
    return value >= LEAST_WAIT if key == "data_wait" else value != 0.0 or key not in ("ibot", "koleo")
