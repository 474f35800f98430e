"""Sinks of the batch job's points: the interface of a data directory on this machine (`local_sink`) and of a service behind HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from service.ingestion.incoming import Incoming, PutResult
from service.points import Stored


class Sink(Protocol):
    """Where points go: a collection of this process, or one behind HTTP. `put` is called from several threads at once."""

    def known(self) -> Mapping[str, Stored]:
        """Return the points that are there, by id: those that were indexed from files, and those that came over REST."""

    def put(self, items: Sequence[Incoming]) -> Sequence[PutResult]:
        """Embed and store images, replacing other content under their ids; return when that is durable.

        An item without image or vector says that the content is as it is stored, and only what else it holds is new.
        """

    def delete(self, ids: Sequence[str]) -> int:
        """Delete points; return how many there were."""
