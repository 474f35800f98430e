"""What is open while the service runs: the locked data directory, the loaded models, the settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from anyio import CapacityLimiter

from service.library import Library
from service.metrics import Metrics
from service.models import Models, load_model
from service.settings import Settings


@dataclass(frozen=True)
class Service:
    """What is open while the service runs."""

    settings: Settings
    models: Models
    library: Library
    # For requests that wait for the network or a job, so that these never hold up a search:
    waiting_threads: CapacityLimiter


@contextmanager
def open_service(settings: Settings, metrics: Metrics) -> Iterator[Service]:
    """Lock and open the data directory, load the artifact, prove its runtime, have all of it counted; close it in the end.

    Raises:
        BackboneError, ServiceError: one of them cannot be had; nothing stays open.
    """
    # First, because the lock is cheap: a second service must not load a model before it hears no.
    library = Library.open(settings.data, settings.threads)
    try:
        models = Models([load_model(settings, metrics=metrics)])
        try:
            metrics.watch(
                "library_writable", "1 while writes are taken, 0 after the disk failed.", lambda: library.writable
            )
            metrics.watch("ready_models", "Models that are loaded.", lambda: len(models.all()))
            # A put holds at least one place of the queue, so more threads than places would have nothing to wait for.
            yield Service(settings, models, library, CapacityLimiter(settings.queue_images))
        finally:
            models.close()
    finally:
        library.close()
