"""The metrics of a run, written to RUN/metrics.csv and RUN/tensorboard, and to further sinks where they are asked for.

Nothing here stops a run: what a full or failing disk refuses is kept in memory, and written when there is room again.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from backbone.durable import read_file, write_file
from backbone.errors import PathMissing

log = logging.getLogger(__name__)

COLUMNS = (
    "step",  # steps taken
    "epoch",
    "images",  # images seen
    "elapsed_s",
    "loss",  # this and the next six: mean over the steps since the last row
    "dino",
    "ibot",
    "koleo",
    "teacher_entropy",  # of a target, over ln K; 1: all are uniform, which is collapse
    "prototype_use",  # share of the prototypes that the targets of a batch use; 1/K: one for all images, which is collapse
    "gradient_norm",  # before clipping
    "feature_std",  # of the directions of the newest batch's vectors; 1: spread evenly, 0: all the same, which is collapse
    "rank_me",  # dimensions that the vectors of the newest batch fill
    "lr",
    "weight_decay",
    "momentum",
    "teacher_temperature",
    "images_per_s",
    "data_wait",  # share of the time spent waiting for images
    "memory_gib",  # the most so far
    "skipped",  # steps not taken because the loss was not finite
    "corrupt",  # image files left out so far
    "knn",  # accuracy on held-out images; empty between the scores
    "two_view_recall",  # recall@1 on held-out images where there are no labels; empty between the scores
)
_COUNTERS = ("step", "epoch", "images", "elapsed_s")

Values = Mapping[str, float | int | None]  # a row: a value, or none, for some of the columns; `step` always


class Sink(Protocol):
    """Takes the rows of a run. It bears its own failures: neither method may stop the run."""

    def write(self, values: Values) -> None:
        """Take a row."""

    def close(self) -> None:
        """Take no more rows."""


class Metrics:
    """Rows in a CSV file, the same as TensorBoard curves, and further sinks."""

    def __init__(self, run: Path, resume_step: int | None = None, sinks: Sequence[Sink] = ()) -> None:
        """Begin, or go on after `resume_step`: rows of later steps, which will come again, are taken out of the file and the curves.

        A file of another version, whose columns are others, is kept as metrics-old-N.csv.

        Args:
            run: RUN.
            resume_step: the step that a resumed run goes on from; None for a run that begins.
            sinks: what else gets every row; closed here.

        Raises:
            StorageFailed: the disk refused at the very start.
        """
        self._sinks: list[Sink] = [
            _Table(run / "metrics.csv", resume_step),
            _Curves(run / "tensorboard", resume_step),
            *sinks,
        ]

    def write(self, values: Values) -> None:
        """Add a row; columns without a value stay empty, an unknown one is a mistake."""
        unknown = values.keys() - set(COLUMNS)
        if unknown:
            raise ValueError(f"there is no column {', '.join(sorted(unknown))}")
        for sink in self._sinks:
            sink.write(values)

    def close(self) -> None:
        """Close all; rows that the disk still refuses are lost."""
        for sink in self._sinks:
            sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Table:
    """metrics.csv: a line of names, then a line a row."""

    def __init__(self, path: Path, resume_step: int | None) -> None:
        header = ",".join(COLUMNS)
        lines = [header] if resume_step is None else [header, *_kept(path, header, resume_step)]
        write_file(path, "".join(f"{line}\n" for line in lines).encode())
        self._file = _GrowingFile(path)

    def write(self, values: Values) -> None:
        self._file.write((",".join(_text(values.get(key)) for key in COLUMNS) + "\n").encode())

    def close(self) -> None:
        self._file.close()


class _Curves:
    """An event file of TensorBoard, written record by record: its own writer fails in a thread, and leaves torn records behind."""

    def __init__(self, folder: Path, resume_step: int | None) -> None:
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time_ns() / 1e9:020.9f}.{socket.gethostname()}.{os.getpid()}"
        self._file = _GrowingFile(folder / name)
        self._records = RecordWriter(self._file)
        self._add(file_version="brain.Event:2")
        if resume_step is not None:  # hides what an earlier file says of this step and later ones
            self._add(step=resume_step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, values: Values) -> None:
        points = [
            Summary.Value(tag=key, simple_value=value)
            for key, value in values.items()
            if value is not None and key not in _COUNTERS
        ]
        self._add(step=int(values["step"] or 0), summary=Summary(value=points))

    def close(self) -> None:
        self._file.close()

    def _add(self, **fields: Any) -> None:  # noqa: ANN401
        self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())


class _GrowingFile:
    """A file that grows piece by piece and never holds a part of one, unless the machine stops in the middle of its last.

    A piece that the disk refuses waits for the next, and is then tried again. The first failure of a series is logged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._end = 0  # of the last whole piece
        self._waiting = b""
        self._failing = False

    def write(self, piece: bytes) -> None:
        """Add a piece."""
        self._waiting += piece
        try:
            self._grow()
        except OSError as error:
            if not self._failing:
                log.warning(
                    "%s cannot be written, the run goes on and tries again: %s", self._path, error.strerror or error
                )
            self._failing = True
        else:
            self._failing = False

    def close(self) -> None:
        """Try once more, and close."""
        self.write(b"")
        if self._waiting:
            log.warning("%s lacks its last %d bytes, which could not be written.", self._path, len(self._waiting))
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # it repeats what was logged
                os.close(self._descriptor)
            self._descriptor = None

    def _grow(self) -> None:
        if self._descriptor is None:
            self._path.parent.mkdir(exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._end = os.fstat(descriptor).st_size
            self._descriptor = descriptor
        try:
            written = 0
            while written < len(self._waiting):
                written += os.pwrite(self._descriptor, self._waiting[written:], self._end + written)
        except OSError:
            # Where not even this works the torn piece stays for now: the next try writes over it from its beginning.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
            raise
        self._end += len(self._waiting)
        self._waiting = b""


def _kept(path: Path, header: str, last_step: int) -> list[str]:
    """The rows of an earlier file up to a step; a torn one is left out. A file with other columns is moved away."""
    try:
        data = read_file(path)
    except PathMissing:
        return []
    first, *lines = data.decode(errors="replace").split("\n")
    if first != header:
        names = (path.with_name(f"metrics-old-{number}.csv") for number in itertools.count(1))
        aside = next(name for name in names if not name.exists())
        write_file(aside, data)
        log.warning("%s has other columns than this version writes; it is kept as %s.", path, aside.name)
        return []
    steps = [line.partition(",")[0] for line in lines[:-1]]  # what follows the last line break is torn
    whole = [
        line.count(",") == header.count(",") and step.isdecimal() for line, step in zip(lines, steps, strict=False)
    ]
    return [line for line, step, good in zip(lines, steps, whole, strict=False) if good and int(step) <= last_step]


def _text(value: float | int | None) -> str:
    """Nine digits tell every float32 from its neighbours, so that two runs can be compared bit by bit."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.9g}"
