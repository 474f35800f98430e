"""The batch job's report: one JSON line for each file that was refused, with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from backbone.errors import StorageFailed


class Refusals:
    """Writes the report while the job runs; without a path it writes nothing. A context manager.

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

    def add(self, id_: str, error: Exception) -> None:
        """Write that the file with this id was refused: `{"id", "code", "detail"}`."""
        if self._file is None:
            return
        if isinstance(error, OSError):
            code, detail = "file_unreadable", f"the file cannot be read: {error.strerror or type(error).__name__}."
        else:
            code, detail = getattr(error, "code", type(error).__name__), str(error)
        try:
            self._file.write(json.dumps({"id": id_, "code": code, "detail": detail}) + "\n")
        except OSError as failed:
            raise self._failed(failed) from failed

    def _failed(self, error: OSError) -> StorageFailed:
        return StorageFailed(f"the report {self._path} cannot be written ({error.strerror}); choose another path.")
