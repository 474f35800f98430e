"""What is open while the service runs: the locked data directory, the loaded models, the settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from anyio import CapacityLimiter

from backbone.machine import usable_cores
from service.embedding.models import Models, load_models
from service.library.library import Library
from service.library.search_queue import SearchQueue
from service.metrics import Metrics
from service.settings import Settings


@dataclass(frozen=True)
class Service:
    """What is open while the service runs."""

    settings: Settings
    models: Models
    library: Library
    # For requests that wait for the network or a job, so that these never hold up a search:
    waiting_threads: CapacityLimiter
    searches: SearchQueue


@contextmanager
def open_service(settings: Settings, metrics: Metrics) -> Iterator[Service]:
    """Lock and open the data directory, load the artifacts, prove their runtimes, have all of it counted; close it in the end.

    Raises:
        BackboneError, ServiceError: one of them cannot be had; nothing stays open.
    """
    # First, because the lock is cheap: a second service must not load a model before it hears no.
    library = Library.open(settings.data, settings.threads)
    try:
        with load_models(settings, metrics) as models:
            searches = SearchQueue(
                settings.threads or usable_cores(),
                settings.queue_searches,
                settings.queue_wait_s,
                settings.embed_timeout_s,
            )
            _watch(metrics, models, library, searches)
            # A put holds at least one place of a queue, so more threads than places would have nothing to wait for.
            places = settings.queue_images * len(models.all())
            yield Service(settings, models, library, CapacityLimiter(places), searches)
    finally:
        library.close()


def _watch(metrics: Metrics, models: Models, library: Library, searches: SearchQueue) -> None:
    embedders = [model.embedder for model in models.all()]
    for name, what, value in (
        ("queue_images", "Images admitted and not yet answered.", lambda: sum(e.queued_images for e in embedders)),
        ("queue_bytes", "Their bytes as they came.", lambda: sum(e.queued_bytes for e in embedders)),
        (
            "waiting_for_decoder_images",
            "Of these, images that no decoder has taken yet.",
            lambda: sum(e.waiting_for_decoder for e in embedders),
        ),
        (
            "waiting_for_network_images",
            "Of these, decoded images that no forward pass has taken yet.",
            lambda: sum(e.waiting_for_network for e in embedders),
        ),
        (
            "decoder_restarts",
            "Decoder processes that had to be started anew.",
            lambda: sum(e.decoder_restarts for e in embedders),
        ),
        ("waiting_searches", "Searches whose turn has not come.", lambda: searches.waiting),
        ("running_searches", "Searches that are computed, each in a thread.", lambda: searches.running),
        ("library_writable", "1 while writes are taken, 0 after the disk failed.", lambda: library.writable),
        ("ready_models", "Models that are loaded.", lambda: len(embedders)),
    ):
        metrics.watch(name, what, value)
