"""The batch job's way into a data directory on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from backbone.decode import ALL_FORMATS, DecodeLimits
from service.embedder import Answer, Embedder
from service.incoming import Incoming, Placed
from service.ingest import ingest
from service.library import Collection, Library
from service.models import load_model
from service.points import Keep
from service.settings import Settings
from service.sinks import Known

_PAGE_POINTS = 1000
_LEAST_QUEUE_IMAGES = 256  # more than the job ever has under way: its own queue never refuses it


class LocalSink:
    """A collection of this process, with the embedder of its model."""

    def __init__(self, collection: Collection, embedder: Embedder) -> None:
        self._collection = collection
        self._embedder = embedder

    def known(self) -> Mapping[str, Known]:
        """Return what was indexed from files before, by id."""
        stored = self._collection.sources()
        return {
            id_: Known(stored[id_].content_hash, label, source)
            for id_, label in self._labels()
            if id_ in stored and (source := stored[id_].source) is not None
        }

    def put(self, items: Sequence[Incoming]) -> Sequence[Placed]:
        """Embed and store images, replacing other content under their ids; return when that is durable."""
        return ingest(self._collection, items, self._embed, replacing=True)

    def delete(self, ids: Sequence[str]) -> int:
        """Delete points; return how many there were."""
        return self._collection.delete(ids=ids)

    def _embed(self, images: Sequence[bytes]) -> Sequence[Answer]:
        return self._embedder.embed(images, thumbnails=self._collection.keep == "thumbnail", patient=True)

    def _labels(self) -> Iterator[tuple[str, str | None]]:
        cursor: str | None = None
        while True:
            points, cursor = self._collection.scroll(_PAGE_POINTS, cursor)
            yield from ((point.id, point.label) for point in points)
            if cursor is None:
                return


@contextmanager
def open_local_sink(
    settings: Settings, collection: str, keep: Keep | None = None, formats: tuple[str, ...] = ALL_FORMATS
) -> Iterator[LocalSink]:
    """Open a data directory and its artifact for the batch job; the collection is made where it is missing.

    Args:
        settings: the data directory, the artifact (the first, where there are several) and its runtime; no key is needed.
        collection: its name.
        keep: what to keep of the pictures in a new collection; None is the thumbnail, or what the collection keeps already.
        formats: image formats that are taken; an owner's own folder may hold more than the service takes from strangers.

    Raises:
        DirectoryLocked: a service or another job holds the data directory.
        FingerprintMismatch: the collection holds the vectors of another model.
        BackboneError: the artifact cannot be had.
    """
    roomy = settings.model_copy(update={"queue_images": max(settings.queue_images, _LEAST_QUEUE_IMAGES)})
    limits = DecodeLimits(
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_pixels,
        max_side=settings.max_side,
        max_scans=settings.max_scans,
        max_chunks=settings.max_chunks,
        formats=formats,
    )
    library = Library.open(settings.data, settings.threads)
    try:
        model = load_model(roomy, settings.artifact[0], limits)
        try:
            made, _ = library.create(collection, model.fingerprint, model.artifact.manifest.dimension, keep)
            yield LocalSink(made, model.embedder)
        finally:
            model.embedder.close()
    finally:
        library.close()
