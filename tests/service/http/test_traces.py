"""Spans, as a collector receives them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from backbone.errors import NotInstalled

if TYPE_CHECKING:
    from starlette.testclient import TestClient

PNG = {"content-type": "image/png"}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ExportTraceServiceRequest]]:
    """A collector on this machine, and what it got."""
    got: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            got.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        yield got
        server.shutdown()


def spans(got: list[ExportTraceServiceRequest]) -> dict[str, Any]:
    return {
        span.name: {each.key: each.value for each in span.attributes} | {"trace_id": span.trace_id.hex()}
        for request in got
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }


def test_a_request_is_a_span_with_its_stages_and_without_what_its_caller_wrote(
    collector: list[ExportTraceServiceRequest], make_client: Callable[..., TestClient], png: Callable[..., bytes]
) -> None:
    client = make_client(allow_anonymous=False, api_key="the-write-key")
    key = {"X-API-Key": "the-write-key"}
    parent = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01", "x-request-id": "mine"}
    assert client.post("/v1/embed", content=png(), headers={**PNG, **key, **parent}).status_code == 200
    assert client.get("/v1/collections/none?api_key=the-secret", headers=key).status_code == 404
    client.__exit__(None, None, None)
    found = spans(collector)
    embed, missing = found["POST /v1/embed"], found["GET /v1/collections/{c}"]
    assert embed["trace_id"] == "ab" * 16
    assert embed["dinodex.request_id"].string_value == "mine"
    assert embed["http.response.status_code"].int_value == 200
    for stage in ("decode", "queue", "infer"):
        assert 0 < embed[f"dinodex.{stage}_s"].double_value < 60
    assert missing["dinodex.code"].string_value == "collection_missing"
    [resource] = {str(each.resource) for request in collector for each in request.resource_spans}
    assert 'string_value: "dinodex"' in resource
    assert not any("the-secret" in str(each) or "the-write-key" in str(each) for each in collector)


def test_u09_spans_for_a_collector_on_this_machine_go_through_no_proxy(
    collector: list[ExportTraceServiceRequest],
    make_client: Callable[..., TestClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_PROXY")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    client = make_client()
    assert client.get("/livez").status_code == 200
    client.__exit__(None, None, None)
    assert "GET /livez" in spans(collector)


def test_without_a_collector_there_are_no_spans(client: TestClient) -> None:
    assert client.app.spans is None  # type: ignore[attr-defined]
    assert client.get("/livez").status_code == 200


def test_a_collector_without_the_exporter_is_said_at_the_start(
    make_client: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(NotInstalled, match=r"dinodex\[otel\]"):
        make_client()
