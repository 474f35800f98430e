"""The sink of a data directory on this machine, for the batch job.

The artifact is verified at the start, because its fingerprint binds the collection. Its network starts with the first image that
needs it: over unchanged files there is none, and a start takes longer than looking at thousands of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Generic, TypeVar

from backbone.artifact import load_artifact
from backbone.formats import INSTALLED_FORMATS
from service.embedding.embedder import Answer, Embedder
from service.embedding.models import start_model
from service.ingestion.incoming import Incoming, PutResult
from service.ingestion.ingest import Ingest
from service.ingestion.kept_path import kept, opened
from service.library.library import Collection, Library
from service.points import Keep, Stored
from service.settings import Settings

_LEAST_QUEUE_IMAGES = 256  # more than the job ever has under way: its own queue never refuses it


Made = TypeVar("Made")


class Once(Generic[Made]):
    """A value that is made when it is first asked for, and once, however many threads ask."""

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._outcome: Future[Made] = Future()

    def get(self) -> Made:
        """Return the value. The first caller makes it, and the others wait; an error in making it is raised for each of them."""
        with self._lock:
            if not self._outcome.done():
                try:
                    self._outcome.set_result(self._make())
                except BaseException as error:  # noqa: BLE001 - it belongs to every caller, and is raised for this one below
                    self._outcome.set_exception(error)
        return self._outcome.result()


class LocalSink:
    """A collection of this process, with the embedder of its model, which starts when it is needed."""

    def __init__(self, collection: Collection, embedder: Once[Embedder]) -> None:
        self._collection = collection
        self._embedder = embedder

    def known(self) -> Mapping[str, Stored]:
        """Return the points that are there, by id: those that were indexed from files, and those that came over REST."""
        return opened(self._collection.stored())

    def put(self, items: Sequence[Incoming]) -> Sequence[PutResult]:
        """Embed and store images, replacing other content under their ids; return when that is durable.

        Raises:
            BackboneError, SettingsInvalid: an image needs the network, and no runtime computes what the artifact was written with.
        """
        points = [item if item.source is None else replace(item, source=kept(item.source)) for item in items]
        ingest = Ingest(self._collection, points, replacing=True)
        while not ingest.done:
            ingest.put(self._embed(ingest.images))
        return ingest.results

    def delete(self, ids: Sequence[str]) -> int:
        """Delete points; return how many there were."""
        return self._collection.delete(ids=ids)

    def _embed(self, images: Sequence[bytes]) -> Sequence[Answer]:
        if not images:
            return []  # and no network is started for it
        return self._embedder.get().embed(images, thumbnails=self._collection.keep == "thumbnail", patient=True)


@contextmanager
def open_local_sink(
    settings: Settings, collection: str, keep: Keep | None = None, formats: tuple[str, ...] = INSTALLED_FORMATS
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
        BackboneError: the artifact is missing or damaged, or the collection would be new and no runtime computes it.
    """
    roomy = settings.model_copy(update={"queue_images": max(settings.queue_images, _LEAST_QUEUE_IMAGES)})
    with Library.open(settings.data, settings.threads) as library, ExitStack() as started:
        artifact = replace(load_artifact(settings.artifact[0]), value_range=settings.value_range)

        def start() -> Embedder:
            made = start_model(roomy, artifact, settings.decode_limits(formats)).embedder
            started.callback(made.close)
            return made

        embedder = Once(start)
        if not any(each.name == collection for each in library.collections()):
            embedder.get()  # every image will need it, and a network that does not compute leaves no empty collection behind
        target, _ = library.create(collection, artifact.fingerprint, artifact.manifest.dimension, keep)
        yield LocalSink(target, embedder)
