"""The service behind nginx: with the configuration that the page of operations shows, and with the one that takes a prefix off."""

from __future__ import annotations

import getpass
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from pictures import encoded, picture
from processes import ServiceProcess, service_process

from dinodex import Client
from service.settings import Settings

if TYPE_CHECKING:
    from backbone import Artifact

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx-light)")

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
PREFIX = "/dinodex"
IDS = ["a/b.png", "p", "a//b", "a/thumbnail", "../x", "..", "scroll", "100%.png", "a%2Fb", "a+b c&d?e#f", "ä/日本.png"]
TAKES_IT_OFF = """
upstream dinodex { server 127.0.0.1:8000; keepalive 32; }
server {
    listen 127.0.0.1:8080;
    location /dinodex/ { proxy_pass http://dinodex/; proxy_http_version 1.1; proxy_set_header Connection ""; }
}
"""


def shown() -> str:
    """Return what the page of operations says that nginx's `http` block gets."""
    [block] = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return str(block)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def nginx(block: str, service_port: int, folder: Path) -> Iterator[str]:
    """Run nginx with these lines in its `http` block and its files in a folder of its own; give the service's address behind it."""
    folder.mkdir()
    port = free_port()
    block = block.replace("127.0.0.1:8000", f"127.0.0.1:{service_port}").replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    folders = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"user {getpass.getuser()}; worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{ worker_connections 256; }}\nhttp {{ access_log off; {folders}\n{block}\n}}\n"
    )
    assert NGINX is not None
    process = subprocess.Popen([NGINX, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"])
    try:
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "error.log").read_text()
                assert time.monotonic() < end
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}{PREFIX}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def service(tiny_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    root = tmp_path_factory.mktemp("service")
    settings: dict[str, object] = {"api_key": "secret", "root_path": PREFIX, "runtime": "openvino", "precision": "fp32"}
    with service_process(tiny_artifact.path, root / "data", root / "log", **settings) as found:
        yield found


@pytest.fixture(scope="module", params=["as the page shows it", "which takes the prefix off"])
def url(
    request: pytest.FixtureRequest, service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    block = shown() if request.param.startswith("as") else TAKES_IT_OFF
    with nginx(block, service.port, tmp_path_factory.mktemp("nginx") / "files") as found:
        yield found


def test_u19_the_client_reaches_every_id_behind_nginx(url: str) -> None:
    for address in (url, f"{url}/"):
        with Client(address, "secret") as client:
            collection = client.collection("c")
            collection.create()
            for number, point_id in enumerate(IDS):
                assert collection.put(point_id, image=encoded(picture(seed=number)), label="x").id == point_id
                assert collection.get(point_id).label == "x"
                assert collection.thumbnail(point_id).startswith(b"\xff\xd8")
            assert collection.count() == len(IDS)
            assert collection.delete(IDS) == len(IDS)


def test_u19_one_segment_or_the_rest_of_the_path_is_an_id_behind_nginx(url: str) -> None:
    key = {"X-API-Key": "secret"}
    with httpx.Client(base_url=url, headers=key) as client:
        assert client.put("/v1/collections/c").status_code in (200, 201)
        for form in ("a%2Fb.png", "a/b.png"):
            at = f"/v1/collections/c/points/{form}"
            put = client.put(at, content=encoded(picture()), headers={"Content-Type": "image/png"})
            assert put.json() == {"id": "a/b.png", "status": "created"}
            assert client.get(f"{at}/thumbnail").status_code == 200
            assert client.patch(at, json={"label": "cat"}).json()["label"] == "cat"
            assert client.delete(at).status_code == 204


def test_u19_the_page_of_the_api_asks_for_its_document_below_the_prefix(url: str) -> None:
    with httpx.Client(headers={"X-API-Key": "secret"}) as client:
        page = client.get(f"{url}/docs").text
        [document] = re.findall(r"url: '([^']+)'", page)
        found = client.get(httpx.URL(url).join(document)).json()
        assert found["servers"] == [{"url": PREFIX}]
        model = httpx.URL(url).join(found["servers"][0]["url"] + "/v1/model")
        assert client.get(model).status_code == 200


def test_u19_a_body_and_its_name_come_through_the_page_s_configuration(service: ServiceProcess, tmp_path: Path) -> None:
    with nginx(shown(), service.port, tmp_path / "nginx") as url:
        large = httpx.post(
            f"{url}/v1/embed", content=b"x" * 30_000_000, headers={"X-API-Key": "secret", "Content-Type": "image/png"}
        )
        assert large.headers["content-type"] == "application/problem+json"
        assert re.fullmatch(r"[0-9a-f]{32}", large.headers["x-request-id"])
        assert large.headers["x-request-id"] in service.log.read_text()


def test_u19_connections_that_the_proxy_keeps_are_kept_longer_by_the_service() -> None:
    [kept_s] = re.findall(r"keepalive_timeout (\d+)s;", shown())
    assert int(kept_s) < Settings.model_fields["keep_alive_s"].default


def test_u19_a_post_into_a_connection_that_rested_is_answered(tiny_artifact: Artifact, tmp_path: Path) -> None:
    """A pool that lets go first gives no 502, however the pauses fall; both times are a tenth of what they are by default."""
    settings: dict[str, object] = {"allow_anonymous": 1, "keep_alive_s": 7, "header_timeout_s": 1, "root_path": PREFIX}
    settings |= {"runtime": "openvino", "precision": "fp32"}
    block = shown().replace("keepalive_timeout 60s;", "keepalive_timeout 1s;")
    with (
        service_process(tiny_artifact.path, tmp_path / "data", tmp_path / "log", **settings) as service,
        nginx(block, service.port, tmp_path / "nginx") as url,
        httpx.Client(base_url=url) as client,
    ):
        assert client.put("/v1/collections/c").status_code == 201
        statuses = []
        for pause_s in (0.0, 0.9, 0.99, 1.0, 1.01, 1.2):
            time.sleep(pause_s)
            statuses.append(client.post("/v1/collections/c/points/count", json={}).status_code)
        assert statuses == [200] * len(statuses)
