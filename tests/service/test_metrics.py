"""The counters, read as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from service.embedding.models import load_model
from service.memory_budget import PASS_FACTOR, memory_budget

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from service.settings import Settings

ROOT = Path(__file__).parents[2]
PNG = {"content-type": "image/png"}


def counted(client: TestClient) -> dict[tuple[str, ...], float]:
    """Return every sample of ours by its name and the values of its labels."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found[(sample.name, *(sample.labels[name] for name in sorted(sample.labels)))] = sample.value
    return found


def test_requests_refusals_stages_and_batches_are_counted(client: TestClient, png: Callable[..., bytes]) -> None:
    before = counted(client)
    for _ in range(2):
        assert client.post("/v1/embed", content=png(), headers=PNG).status_code == 200
    assert client.post("/v1/embed", content=b"<svg/>" * 20, headers=PNG).status_code == 415
    client.put("/v1/collections/c")
    client.put("/v1/collections/c/points/a", content=png(), headers=PNG)
    client.post("/v1/collections/c/query", json={"id": "a"})
    assert client.get("/v1/collections/none").status_code == 404
    after = counted(client)

    def grew(*name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    assert grew("dinodex_requests_total", "POST", "/v1/embed", "200") == 2
    assert grew("dinodex_requests_total", "POST", "/v1/embed", "415") == 1
    assert grew("dinodex_request_seconds_count", "/v1/embed") == 3
    assert grew("dinodex_requests_total", "GET", "/v1/collections/{c}", "404") == 1
    assert grew("dinodex_refusals_total", "unsupported_image_type") == 1
    assert grew("dinodex_refusals_total", "collection_missing") == 1
    assert grew("dinodex_refused_images_total", "unsupported_image_type") == 1
    assert grew("dinodex_batch_images_count") == 3
    assert grew("dinodex_batch_images_sum") == 3
    for stage in ("decode", "queue", "infer"):
        assert grew("dinodex_stage_seconds_count", stage) == 3, stage
    assert grew("dinodex_stage_seconds_count", "search") == 1
    assert after[("dinodex_queue_images",)] == after[("dinodex_queue_bytes",)] == 0
    assert after[("dinodex_library_writable",)] == 1
    assert after[("process_resident_memory_bytes",)] > 10**7


def test_no_label_holds_what_a_caller_chose(client: TestClient) -> None:
    client.get("/v1/collections/a-secret-name")
    client.put("/v1/collections/a-secret-name")
    client.get("/a-secret-path")
    client.request("SECRET", "/livez")
    text = client.get("/metrics").text.lower()
    assert "secret" not in text
    assert 'method="other"' in text
    assert 'route="none"' in text


def test_the_ceiling_of_memory_is_the_sum_of_what_may_be_taken(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(decode_workers=3, queue_images=64, batch_images=10, request_memory_bytes=10**9)
    model = load_model(settings, settings.artifact[0])
    try:
        reckoned = memory_budget(settings, [model, model])
    finally:
        model.embedder.close()
    assert reckoned.requests == 10**9
    assert reckoned.images == 2 * 64 * 3 * 32 * 32 * (1 + 4)  # two models with inputs of 32 pixels
    assert reckoned.passes == 2 * 10 * PASS_FACTOR * 4 * (
        32 + 16 * 32
    )  # outputs of one token and 16 patches, of 32 numbers each
    assert reckoned.decoders >= 2 * 3 * 20 * settings.max_pixels
    assert reckoned.started >= 50_000_000
    assert reckoned.total == sum(asdict(reckoned).values())


def test_the_counters_stand_in_the_operators_guide(client: TestClient) -> None:
    guide = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    ours = {name for name, *_ in counted(client) if name.startswith("dinodex_")}
    for name in ours:
        for ending in ("_total", "_created", "_bucket", "_count", "_sum"):
            name = name.removesuffix(ending)
        assert f"`{name}" in guide, name


def test_two_applications_count_for_themselves(make_client: Callable[..., TestClient], tmp_path: Path) -> None:
    one, other = make_client(), make_client(data=tmp_path / "other")
    one.get("/v1/model")
    assert ("dinodex_requests_total", "GET", "/v1/model", "200") in counted(one)
    assert ("dinodex_requests_total", "GET", "/v1/model", "200") not in counted(other)
