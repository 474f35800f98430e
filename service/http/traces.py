"""OpenTelemetry traces: a span for each request with its stages, where the environment names a collector; nothing otherwise.

The variables are OpenTelemetry's own: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and so on. FastAPI makes the
spans.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace

from backbone.errors import NotInstalled

if TYPE_CHECKING:
    import requests
    from opentelemetry.sdk.trace import TracerProvider

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_SERVICE: Final = "OTEL_SERVICE_NAME"
_TIMEOUT: Final = "OTEL_EXPORTER_OTLP_TIMEOUT"
_EXPORT_TIMEOUT_S: Final = 5  # for a collector that is not there, which a stop waits for once


def configured_provider() -> TracerProvider | None:
    """Return what sends spans to the collector that the environment names, or None where it names none.

    Raises:
        NotInstalled: a collector is named and the exporter is not there.
    """
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise NotInstalled(
            "an OTEL_EXPORTER_OTLP endpoint is set and the exporter is not installed; pip install 'dinodex[otel]'."
        ) from error
    named = {} if os.environ.get(_SERVICE) else {"service.name": "dinodex"}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    timeout_s = None if os.environ.get(_TIMEOUT) else _EXPORT_TIMEOUT_S
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=timeout_s, session=_direct_session())))
    return provider


def _direct_session() -> requests.Session | None:
    """Return a session that leaves proxies aside, for a collector on this machine; None, the exporter's own, for any other."""
    endpoint = next(value for name in _ENDPOINTS if (value := os.environ.get(name)))
    host = (urlsplit(endpoint).hostname or "").rstrip(".")
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost" or host.endswith(".localhost")
    if not here:
        return None
    import requests  # the exporter's own

    session = requests.Session()
    session.trust_env = False
    return session


def telemetry(provider: TracerProvider | None) -> TelemetryConfig:
    """Return FastAPI's settings: spans where there is a provider; counters and the log are dinodex's own."""
    return {
        "tracer_provider": provider,
        "tracing": provider is not None,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
    }


def describe_request(request_id: str, code: str | None, stages: Mapping[str, float]) -> None:
    """Give the span of the current request, where there is one, its id, the code of its error and the seconds of its stages."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    span.set_attribute("dinodex.request_id", request_id)
    span.set_attribute("url.query", "")  # what callers put there is filters and labels, and once in a while a key
    if code is not None:
        span.set_attribute("dinodex.code", code)
    for stage, seconds in stages.items():
        span.set_attribute(f"dinodex.{stage}_s", seconds)
