"""The remote sink of the batch job, over HTTP; the service knows unchanged images by their bytes and embeds only the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from dinodex.answers import PutOutcome
from dinodex.client import Client
from dinodex.collection import Collection
from dinodex.errors import NotFound, RequestRefused, Unavailable
from service.ingestion.incoming import Incoming, PutResult
from service.points import UNSET, Stored

ATTEMPTS = 8  # with the doubling pause below about half a minute: a restart of the service, or a crowd that passes
FIRST_PAUSE_S = 0.25


class RemoteSink:
    """A collection of a running service; made there where it is missing."""

    def __init__(self, client: Client, collection: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self._collection: Collection = client.collection(collection)
        self._sleep = sleep
        try:
            self._collection.stats()
        except NotFound:
            self._collection.create()

    def known(self) -> Mapping[str, Stored]:
        """Return nothing: a service does not tell where its images came from, so every file is sent and compared there."""
        return {}

    def put(self, items: Sequence[Incoming]) -> Sequence[PutResult]:
        """Send one chunk; come back later, some times, while the service says that it has no room."""
        points = [_sent(item) for item in items]
        pause_s = FIRST_PAUSE_S
        for _ in range(ATTEMPTS - 1):
            try:
                return [_placed(outcome) for outcome in self._collection.put_many(points, replace=True)]
            except Unavailable as error:
                self._sleep(max(pause_s, error.retry_after_s or 0.0))
                pause_s *= 2
        return [_placed(outcome) for outcome in self._collection.put_many(points, replace=True)]

    def delete(self, ids: Sequence[str]) -> int:
        """Delete points; return how many there were."""
        return self._collection.delete(ids)


def _sent(item: Incoming) -> dict[str, object]:
    """Return a point as it is sent: a label of None takes away the one that is there, as it does in a data directory."""
    label = {} if item.label is UNSET else {"label": item.label}
    return {"id": item.id, "image": item.image, **label}


def _placed(outcome: PutOutcome) -> PutResult:
    if outcome.error is None:
        return PutResult(outcome.id, outcome.status)
    return PutResult(outcome.id, error=RequestRefused(outcome.error.detail, code=outcome.error.code))
