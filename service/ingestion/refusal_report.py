"""The refusal report of the batch job: one JSON line for each file that was refused, with its reason."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from backbone.errors import StorageFailed


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
    """The file that refusals are written to while the job runs; without a path nothing is written. A context manager.

    Raises:
        StorageFailed: the file cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        if self._path is not None:
            try:
                # Buffered by the line: a job that was killed leaves whole lines.
                self._file = self._path.open("w", encoding="utf-8", buffering=1)
            except OSError as error:
                raise self._failed(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, refusal: Refusal) -> None:
        """Write `{"id", "code", "detail"}`."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(asdict(refusal)) + "\n")
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> StorageFailed:
        return StorageFailed(f"the report {self._path} cannot be written ({error.strerror}); choose another path.")
