"""Prometheus metrics: requests, refusals by code, the time of each stage, batches, the queue, decoders.

No label holds anything that a caller chose: routes are templates, methods and codes come from short lists of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # a search to a deadline
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
NO_ROUTE = "none"  # a path that is no route's; as a label it would be whatever strangers send
_METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}


class Metrics:
    """The counters of one application."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self._requests = Counter(
            "dinodex_requests", "Requests that ended.", ["method", "route", "status"], registry=registry
        )
        self._refusals = Counter("dinodex_refusals", "Answers that were errors, by code.", ["code"], registry=registry)
        self._seconds = Histogram(
            "dinodex_request_seconds",
            "From a request to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self._stages = Histogram(
            "dinodex_stage_seconds",
            "A stage of a request: decode, queue, infer, search.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "dinodex_batch_images", "Images in a forward pass.", buckets=IMAGES, registry=registry
        )
        self._passes = Histogram("dinodex_pass_seconds", "A forward pass.", buckets=SECONDS, registry=registry)
        self._cancelled = Counter("dinodex_cancelled_images", "Images whose caller had left.", registry=registry)
        self._refused = Counter(
            "dinodex_refused_images", "Images that were refused one by one, by code.", ["code"], registry=registry
        )

    def request_ended(
        self, method: str, route: str | None, status: int, code: str | None, seconds: float, stages: Mapping[str, float]
    ) -> None:
        """Count a request; `route` is the template that it matched, `code` that of its error."""
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route or NO_ROUTE, str(status)).inc()
        self._seconds.labels(route or NO_ROUTE).observe(seconds)
        if code is not None:
            self._refusals.labels(code).inc()
        for stage, took in stages.items():
            self._stages.labels(stage).observe(took)

    def batch_ran(self, images: int, seconds: float) -> None:
        """Count a forward pass."""
        self._batches.observe(images)
        self._passes.observe(seconds)

    def image_refused(self, code: str) -> None:
        """Count an image that was refused."""
        self._refused.labels(code).inc()

    def image_cancelled(self) -> None:
        """Count an image whose caller had left before it was computed."""
        self._cancelled.inc()

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Ask for a value whenever somebody looks."""
        Gauge(f"dinodex_{name}", what, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)
