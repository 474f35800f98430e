"""Sinks of the batch job's points: the interface of a data directory on this machine (`local_sink`) and of a service behind HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from service.ingestion.incoming import Incoming, PutResult
from service.points import Source


@dataclass(frozen=True)
class IndexedFile:
    """A file that was indexed before, as its collection has it."""

    content_hash: bytes
    label: str | None
    source: Source


class Sink(Protocol):
    """Where points go: a collection of this process, or one behind HTTP. `put` is called from several threads at once."""

    def known(self) -> Mapping[str, IndexedFile]:
        """Return what was indexed from files before, by id."""

    def put(self, items: Sequence[Incoming]) -> Sequence[PutResult]:
        """Embed and store images, replacing other content under their ids; return when that is durable."""

    def delete(self, ids: Sequence[str]) -> int:
        """Delete points; return how many there were."""
