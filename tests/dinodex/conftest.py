"""A client connected to a service of this process."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

with warnings.catch_warnings():
    # It wants httpx2, which is httpx under another name; the client that dinodex ships stands on httpx itself.
    warnings.simplefilter("ignore", UserWarning)
    from starlette.testclient import TestClient

from backbone import Artifact
from dinodex import Client
from service.app import create_app
from service.settings import load_settings


class Through(httpx.BaseTransport):
    """Sends the client's requests through a TestClient, whichever of httpx and httpx2 that stands on."""

    def __init__(self, web: TestClient) -> None:
        self._web = web

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        headers = {name: value for name, value in request.headers.items() if name != "transfer-encoding"}
        answer = self._web.request(request.method, str(request.url), content=request.read(), headers=headers)
        return httpx.Response(answer.status_code, headers=list(answer.headers.items()), content=answer.content)


@pytest.fixture
def client(tiny_artifact: Artifact, tmp_path: Path) -> Iterator[Client]:
    settings = load_settings(
        artifact=tiny_artifact.path, data=tmp_path / "data", runtime="torch", threads=1, allow_anonymous=True
    )
    with (
        TestClient(create_app(settings), base_url="http://service") as web,
        Client("http://service", transport=Through(web)) as connected,
    ):
        yield connected
