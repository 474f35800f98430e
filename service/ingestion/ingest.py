"""Ingestion of images and ready vectors: what is already there is not embedded again, and one image's error is its own.

The same way in for the routes and for the batch job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from service.embedding.embedder import Answer, Embedded
from service.errors import DuplicateId, PointConflict
from service.ingestion.incoming import Incoming, PutResult
from service.library.collection import Collection
from service.points import NewPoint, check_id, unit_rows


class Ingest:
    """The points of one request, put durably. Only images that are new, or differ and may replace, are to be embedded.

    An image that is refused fails alone. Whoever puts points embeds, in as many rounds as it takes:

        ingest = Ingest(collection, items, replacing)
        while not ingest.done:
            ingest.put(embed(ingest.images))
        return ingest.results
    """

    def __init__(self, collection: Collection, items: Sequence[Incoming], replacing: bool) -> None:
        """Look at what is stored; blocks.

        Raises:
            DuplicateId, InvalidId, InvalidVector, DimensionMismatch: the request as a whole is refused, before anything is embedded.
        """
        _check(collection, items)
        self._collection = collection
        self._items = items
        self._replacing = replacing
        self._stored = collection.stored([item.id for item in items if item.image is not None])
        self._results: dict[str, PutResult] = {}
        self._left = items
        self._unembedded = [item for item in items if item.image is not None and self._needs_vector(item)]

    @property
    def done(self) -> bool:
        """Whether every point has its result."""
        return not self._left

    @property
    def images(self) -> list[bytes]:
        """Return the images that need a vector before the next put; with thumbnails where the collection keeps them."""
        return [item.image for item in self._unembedded if item.image is not None]

    @property
    def results(self) -> list[PutResult]:
        """Return what became of the points, in their order."""
        return [self._results[item.id] for item in self._items]

    def put(self, answers: Sequence[Answer]) -> None:
        """Put the points, given what embedding `images` answered; blocks."""
        embedded = {item.id: answer for item, answer in zip(self._unembedded, answers, strict=True)}
        results = _put(self._collection, self._left, embedded, self._replacing)
        # Between the look at what is stored and the put, another request may have deleted or replaced a point: then it needs a
        # vector. Once: who is overtaken again has a conflict.
        overtaken = [item for item in self._left if not self._results and self._overtaken(item, results[item.id])]
        self._results |= results
        self._left = self._unembedded = overtaken

    def _needs_vector(self, item: Incoming) -> bool:
        return item.id not in self._stored or (self._replacing and not self._same(item))

    def _overtaken(self, item: Incoming, result: PutResult) -> bool:
        return isinstance(result.error, PointConflict) and item.id in self._stored and self._same(item)

    def _same(self, item: Incoming) -> bool:
        return item.content_hash == self._stored[item.id].content_hash


def _check(collection: Collection, items: Sequence[Incoming]) -> None:
    seen: set[str] = set()
    for item in items:
        if check_id(item.id) in seen:
            raise DuplicateId(f"the id {item.id!r} stands twice in one request; send each once.")
        seen.add(item.id)
    ready = [(index, item.vector) for index, item in enumerate(items) if item.vector is not None]
    unit_rows([vector for _, vector in ready], collection.dimension, [index for index, _ in ready])


def _put(
    collection: Collection, items: Sequence[Incoming], embedded: Mapping[str, Answer], replacing: bool
) -> dict[str, PutResult]:
    results: dict[str, PutResult] = {}
    points: list[NewPoint] = []
    for item in items:
        # No vector means: what is stored has this content. The library says PointConflict where that is not so.
        point = NewPoint(item.id, item.content_hash, item.vector, item.label, item.payload, source=item.source)
        answer = embedded.get(item.id)
        if isinstance(answer, Embedded):
            picture = item.image if collection.keep == "image" else answer.thumbnail
            point = replace(point, vector=answer.vector, picture=picture)
        elif answer is not None:
            results[item.id] = PutResult(item.id, error=answer)
            continue
        points.append(point)
    for outcome in collection.put(points, replace=replacing) if points else ():
        results[outcome.id] = PutResult(outcome.id, outcome.status, outcome.error)
    return results
