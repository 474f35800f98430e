"""A command run in this process, and a client connected to a service of it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from commands import Run

with warnings.catch_warnings():
    # It wants httpx2, which is httpx under another name; the client that dinodex ships stands on httpx itself.
    warnings.simplefilter("ignore", UserWarning)
    from starlette.testclient import TestClient

from backbone import Artifact
from dinodex import Client
from dinodex.cli import main
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


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process: exit code, standard output, standard error."""
    for name in [name for name in os.environ if name.startswith("DINODEX_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DINODEX_RUNTIME", "torch")
    monkeypatch.setenv("DINODEX_THREADS", "1")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dinodex", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call
