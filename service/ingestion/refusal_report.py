"""The refusal report of the batch job: one JSON line for each file that was refused, with its reason."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from backbone.errors import StorageFailed
from backbone.output import open_stream, write_through


@dataclass(frozen=True)
class Refusal:
    """A file that was refused, by its id, and why."""

    id: str
    code: str
    detail: str

    @classmethod
    def of(cls, id_: str, error: Exception) -> Self:
        """Say why the file with this id was refused."""
        if isinstance(error, OSError):
            return cls(id_, "file_unreadable", f"the file cannot be read: {error.strerror or type(error).__name__}.")
        return cls(id_, getattr(error, "code", type(error).__name__), str(error))


class RefusalReport:
    """The file, pipe or device that refusals are written to while the job runs; without a path nothing is. A context manager.

    Raises:
        StorageFailed: it cannot be written.
    """

    def __init__(self, path: Path | None, stop: threading.Event | None = None) -> None:
        self._path = path
        self._stop = stop or threading.Event()  # set, a reader that takes nothing is not waited for any more
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        if self._path is not None:
            self._descriptor = open_stream(self._path, self._stop.is_set)
            if self._descriptor is None:
                try:
                    self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
                except OSError as error:
                    raise self._failed(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def add(self, refusal: Refusal) -> None:
        """Write `{"id", "code", "detail"}`: at once, so that a job that is killed leaves whole lines."""
        if self._descriptor is None:
            return
        line = json.dumps(asdict(refusal)) + "\n"
        try:
            write_through(self._descriptor, line.encode(), self._stop.is_set)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> StorageFailed:
        return StorageFailed(f"the report {self._path} cannot be written ({error.strerror}); choose another path.")
