"""Ingestion of images and ready vectors: what is already there is not embedded again, and one image's error is its own.

The same way in for the routes and for the batch job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from service.embedding.embedder import Answer, Embedded
from service.errors import DuplicateId, PointConflict
from service.ingestion.incoming import Incoming, PutResult
from service.library.library import Collection
from service.points import NewPoint, Stored, check_id, unit_rows

Embed = Callable[[Sequence[bytes]], Sequence[Answer]]  # with thumbnails where the collection keeps them


def ingest(collection: Collection, items: Sequence[Incoming], embed: Embed, replacing: bool) -> list[PutResult]:
    """Put points durably; blocks.

    Only images that are new, or differ and may replace, are embedded. An image that is refused fails alone.

    Raises:
        DuplicateId, InvalidId, InvalidVector, DimensionMismatch: the request as a whole is refused, before anything is embedded.
        Saturated, Stopping: as `Embedder.embed`; nothing was stored.
    """
    _check(collection, items)
    stored = collection.stored([item.id for item in items if item.image is not None])
    fresh = [item for item in items if item.image is not None and _needs_vector(item, stored, replacing)]
    placed = _put(collection, items, _embedded(fresh, embed), replacing)
    # Between the look at what is stored and the put, another request may have deleted or replaced a point: then it needs a vector.
    overtaken = [
        item
        for item in items
        if isinstance(placed[item.id].error, PointConflict) and item.id in stored and _same(item, stored[item.id])
    ]
    if overtaken:
        placed |= _put(collection, overtaken, _embedded(overtaken, embed), replacing)
    return [placed[item.id] for item in items]


def _check(collection: Collection, items: Sequence[Incoming]) -> None:
    seen: set[str] = set()
    for item in items:
        if check_id(item.id) in seen:
            raise DuplicateId(f"the id {item.id!r} stands twice in one request; send each once.")
        seen.add(item.id)
    ready = [(index, item.vector) for index, item in enumerate(items) if item.vector is not None]
    unit_rows([vector for _, vector in ready], collection.dimension, [index for index, _ in ready])


def _same(item: Incoming, stored: Stored) -> bool:
    return item.content_hash == stored.content_hash


def _needs_vector(item: Incoming, stored: Mapping[str, Stored], replacing: bool) -> bool:
    return item.id not in stored or (replacing and not _same(item, stored[item.id]))


def _embedded(items: Sequence[Incoming], embed: Embed) -> dict[str, Answer]:
    if not items:
        return {}
    answers = embed([item.image for item in items if item.image is not None])
    return {item.id: answer for item, answer in zip(items, answers, strict=True)}


def _put(
    collection: Collection, items: Sequence[Incoming], embedded: Mapping[str, Answer], replacing: bool
) -> dict[str, PutResult]:
    placed: dict[str, PutResult] = {}
    points: list[NewPoint] = []
    for item in items:
        # No vector means: what is stored has this content. The library says PointConflict where that is not so.
        point = NewPoint(item.id, item.content_hash, item.vector, item.label, item.payload, source=item.source)
        answer = embedded.get(item.id)
        if isinstance(answer, Embedded):
            picture = item.image if collection.keep == "image" else answer.thumbnail
            point = replace(point, vector=answer.vector, picture=picture)
        elif answer is not None:
            placed[item.id] = PutResult(item.id, error=answer)
            continue
        points.append(point)
    for outcome in collection.put(points, replace=replacing) if points else ():
        placed[outcome.id] = PutResult(outcome.id, outcome.status, outcome.error)
    return placed
