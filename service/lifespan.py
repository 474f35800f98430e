"""The lifespan of a service: the locked data directory and the loaded models are open while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from anyio import CapacityLimiter

from backbone.machine import usable_cores
from service.embedding.embedder import EmbedderStats
from service.embedding.models import Models, load_models
from service.library.library import Library
from service.library.search_queue import SearchQueue
from service.metrics import Metrics
from service.settings import Settings


@dataclass(frozen=True)
class Service:
    """Everything that is open while the service runs."""

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

    def total(count: Callable[[EmbedderStats], int]) -> Callable[[], int]:
        return lambda: sum(count(embedder.stats()) for embedder in embedders)

    for name, what, value in (
        ("queue_images", "Images admitted and not yet answered.", total(lambda stats: stats.queued_images)),
        ("queue_bytes", "Their bytes as they came.", total(lambda stats: stats.queued_bytes)),
        (
            "waiting_for_decoder_images",
            "Of these, images that no decoder has taken yet.",
            total(lambda stats: stats.waiting_for_decoder),
        ),
        (
            "waiting_for_network_images",
            "Of these, decoded images that no forward pass has taken yet.",
            total(lambda stats: stats.waiting_for_network),
        ),
        (
            "decoder_restarts",
            "Decoder processes that had to be started anew.",
            total(lambda stats: stats.decoder_restarts),
        ),
        ("waiting_searches", "Searches that wait for a thread.", lambda: searches.waiting),
        ("running_searches", "Searches that are computed, each in a thread.", lambda: searches.running),
        ("library_writable", "1 while writes are taken, 0 after the disk failed.", lambda: library.writable),
        ("ready_models", "Models that are loaded.", lambda: len(embedders)),
    ):
        metrics.watch(name, what, value)
