"""A client connected to a service of this process."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

with warnings.catch_warnings():
    # It wants httpx2, which is httpx under another name; the client that dinodex ships stands on httpx itself.
    warnings.simplefilter("ignore", UserWarning)
    from starlette.testclient import TestClient

from backbone import Artifact
from dinodex import Client
from service.app import create_app
from service.settings import load_settings


@pytest.fixture
def client(tiny_artifact: Artifact, tmp_path: Path) -> Iterator[Client]:
    settings = load_settings(
        artifact=tiny_artifact.path, data=tmp_path / "data", runtime="torch", threads=1, allow_anonymous=True
    )
    with (
        TestClient(create_app(settings), base_url="http://service") as web,
        Client("http://service", transport=web._transport) as connected,
    ):
        yield connected
