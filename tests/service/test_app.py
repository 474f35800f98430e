from __future__ import annotations

import io
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import httpx
import pytest
import structlog
from pictures import encoded, picture
from processes import ServiceProcess, service_process

from backbone.errors import ArtifactInvalid, DirectoryLocked, PathMissing
from service.app import create_app
from service.embedding import decoder_pool
from service.errors import PortInUse, SettingsInvalid
from service.http.request_log import configure_logging
from service.serve import _listen, serve

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from backbone import Artifact
    from service.settings import Settings

TIMEOUT_S = 60.0
PNG = {"content-type": "image/png"}


@dataclass
class Served:
    """A service in a process of its own, and a client of it."""

    process: ServiceProcess
    client: httpx.Client


@pytest.fixture
def start(tiny_artifact: Artifact, tmp_path: Path) -> Callable[..., AbstractContextManager[Served]]:
    """Start services on one data directory, each for a block."""

    @contextmanager
    def make(stop: Literal["term", "kill"] = "term", **settings: object) -> Iterator[Served]:
        given: dict[str, object] = {"runtime": "openvino", "threads": 1, **settings}
        with (
            service_process(tiny_artifact.path, tmp_path / "data", tmp_path / "log", stop=stop, **given) as process,
            httpx.Client(base_url=process.url, timeout=TIMEOUT_S) as client,
        ):
            assert client.get("/readyz").status_code == 200
            yield Served(process, client)

    return make


def test_a_real_service_answers_logs_json_and_ends_with_0_on_sigterm(
    start: Callable[..., AbstractContextManager[Served]], png: Callable[..., bytes], tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("s3cret-key\n")
    with start(api_key_file=key) as server:
        assert server.client.get("/v1/model").status_code == 401
        server.client.headers["Authorization"] = "Bearer s3cret-key"
        assert server.client.put("/v1/collections/c").status_code == 201
        for point in ("a%2Fb.png", "a%2Fthumbnail", "..%2Fx", "scroll"):
            put = server.client.put(f"/v1/collections/c/points/{point}", content=png(), headers=PNG)
            assert put.status_code == 200
            assert server.client.get(f"/v1/collections/c/points/{point}").status_code == 200
        ids = [each["id"] for each in server.client.post("/v1/collections/c/points/scroll", json={}).json()["result"]]
        assert ids == ["../x", "a/b.png", "a/thumbnail", "scroll"]
        model = server.client.get("/v1/model").json()
        assert model["runtime"] == "openvino"
    assert server.process.process.returncode == 0
    assert server.process.log.read_text().splitlines().count(f"serving on {server.process.url}") == 1
    log = server.process.lines()
    requests = [line for line in log if line["event"] == "request"]
    assert {(line["method"], line["status"]) for line in requests} >= {("PUT", 201), ("GET", 200), ("GET", 401)}
    assert all(line["request_id"] and line["level"] == "info" for line in requests)
    assert "s3cret" not in json.dumps(log)
    assert str(tmp_path) not in json.dumps(log)


def test_a_request_under_way_at_sigterm_is_answered(
    start: Callable[..., AbstractContextManager[Served]], png: Callable[..., bytes]
) -> None:
    with start(allow_anonymous=1, batch_wait_ms=1000) as server:
        statuses: list[int] = []
        asking = threading.Thread(
            target=lambda: statuses.append(server.client.post("/v1/embed", content=png(), headers=PNG).status_code)
        )
        asking.start()
        time.sleep(0.3)  # it now waits for others in the batcher
        server.process.process.send_signal(signal.SIGTERM)
        asking.join(TIMEOUT_S)
        assert statuses == [200]
    assert server.process.process.returncode == 0


def test_an_acknowledged_point_survives_sigkill(
    start: Callable[..., AbstractContextManager[Served]], png: Callable[..., bytes]
) -> None:
    with start(stop="kill", allow_anonymous=1) as server:
        server.client.put("/v1/collections/c").raise_for_status()
        for index in range(5):
            put = server.client.put(f"/v1/collections/c/points/{index}", content=png(seed=index), headers=PNG)
            put.raise_for_status()
    assert server.process.process.returncode == -signal.SIGKILL
    with start(allow_anonymous=1) as again:
        assert again.client.post("/v1/collections/c/points/count", json={}).json() == {"count": 5}
        hits = again.client.post("/v1/collections/c/query", content=png(seed=3), headers=PNG).json()["result"]
        assert hits[0]["id"] == "3"


def test_a_port_in_use_is_said_before_anything_is_loaded(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortInUse, match=str(port)):
            serve(make_settings(port=port))
    assert not (tmp_path / "data").exists()


def test_a_host_that_is_not_of_this_machine_is_said(make_settings: Callable[..., Settings]) -> None:
    with pytest.raises(SettingsInvalid, match="cannot listen"):
        serve(make_settings(host="192.0.2.1", allow_anonymous=False, api_key="k", port=0))


def test_small_answers_are_not_held_back_by_nagle() -> None:
    with _listen("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP  # what asyncio looks at before it sets TCP_NODELAY


def test_a_second_service_on_the_directory_is_refused(
    client: TestClient, make_client: Callable[..., TestClient]
) -> None:
    with pytest.raises(DirectoryLocked):
        make_client()
    assert client.get("/readyz").status_code == 200


def test_what_was_opened_is_closed_when_the_artifact_is_refused(
    make_client: Callable[..., TestClient], tiny_artifact: Artifact, tmp_path: Path
) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(tiny_artifact.path, broken)
    weights = bytearray((broken / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (broken / "weights.safetensors").write_bytes(weights)
    with pytest.raises(ArtifactInvalid):
        make_client(artifact=broken)
    with pytest.raises(PathMissing):
        make_client(artifact=tmp_path / "none")
    assert make_client().get("/readyz").status_code == 200


def test_readiness_follows_the_store_and_the_embedder(client: TestClient) -> None:
    assert client.get("/readyz").json()["checks"] == {"self_test": True, "embedder": True, "store": True}
    client.app.state.service.models.default.embedder.close()  # type: ignore[attr-defined]
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["checks"]["embedder"]) == (503, False)
    assert answer.headers["retry-after"] == "1"
    assert client.get("/livez").status_code == 200
    client.app.state.service.library.close()  # type: ignore[attr-defined]
    assert client.get("/readyz").json()["checks"]["store"] is False


def test_u08_a_service_whose_decoder_does_not_start_says_why_it_is_not_ready(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(decoder_pool, "module_command", lambda *_: [sys.executable, "-c", "raise ImportError('no PIL')"])
        answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["checks"]["embedder"]) == (503, False)
    assert answer.json()["detail"] == "the decoder's process ends at its start (ImportError); the log says why."
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert "detail" not in answer.json()


def test_the_openapi_document_is_complete(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    text = json.dumps(document)
    names = {reference.split('"')[0] for reference in text.split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])
    bodyless = {"get", "delete"}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            where = f"{method} {path}"
            assert operation.get("description"), where
            assert ("requestBody" in operation) is (method not in bodyless), where
            if path.startswith("/v1"):
                shape = "json" if path.startswith(("/v1/embeddings", "/v1/models")) else "problem+json"
                assert f"application/{shape}" in operation["responses"]["401"]["content"], where
                assert "security" not in operation, where


def test_u06_a_service_that_is_told_so_takes_further_formats_and_its_document_says_which(
    make_client: Callable[..., TestClient],
) -> None:
    avif, gif = encoded(picture(), "AVIF"), encoded(picture(), "GIF")
    client = make_client(formats="jpeg,avif,tiff")
    content = client.get("/openapi.json").json()["paths"]["/v1/embed"]["post"]["requestBody"]["content"]
    assert [kind for kind in content if kind.startswith("image/")] == ["image/jpeg", "image/avif", "image/tiff"]
    for data in (avif, encoded(picture(), "TIFF")):
        assert client.post("/v1/embed", content=data, headers={"content-type": "image/avif"}).status_code == 200
    assert client.put("/v1/collections/c").status_code == 201
    put = client.put("/v1/collections/c/points/a", content=avif, headers={"content-type": "image/avif"})
    assert put.status_code == 200
    refused = client.post("/v1/embed", content=gif, headers={"content-type": "image/gif"})
    assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_image_type")
    assert "accepted are JPEG, AVIF, TIFF" in refused.json()["detail"]


def test_starting_and_stopping_leaves_nothing_open(make_settings: Callable[..., Settings]) -> None:
    from starlette.testclient import TestClient

    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    for _ in range(2):  # what is opened once and for all
        with TestClient(create_app(make_settings())):
            pass
    before = held()
    for _ in range(5):
        with TestClient(create_app(make_settings())) as client:
            client.get("/readyz")
    files, threads = held()
    assert files <= before[0] + 2
    assert threads <= before[1] + 2


def test_a_closed_standard_error_costs_log_lines_and_no_request(
    make_client: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = io.StringIO()
    gone.close()
    monkeypatch.setattr(sys, "stderr", gone)
    configure_logging("info")
    try:
        assert make_client().get("/v1/model").status_code == 200
    finally:
        structlog.reset_defaults()
