"""What the service's tests share: a running application on a tiny artifact, and a picture for it."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

with warnings.catch_warnings():
    # It wants httpx2, which is httpx under another name; the client that dinodex ships stands on httpx itself.
    warnings.simplefilter("ignore", UserWarning)
    from starlette.testclient import TestClient

if TYPE_CHECKING:
    from backbone import Artifact
    from service.settings import Settings


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide DINODEX_* variables of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("DINODEX_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def make_settings(tiny_artifact: Artifact, tmp_path: Path) -> Callable[..., Settings]:
    """Make settings of a service on loopback without a key; torch in fp32, because it is bit-equal to training."""
    from service.settings import load_settings

    def make(**given: object) -> Settings:
        defaults = {
            "artifact": tiny_artifact.path,
            "data": tmp_path / "data",
            "allow_anonymous": True,
            "runtime": "torch",
            "precision": "fp32",
            "threads": 1,
            "decode_workers": 1,
        }
        return load_settings(**{**defaults, **given})

    return make


@pytest.fixture
def make_client(make_settings: Callable[..., Settings]) -> Iterator[Callable[..., TestClient]]:
    """Start applications with the settings given, and stop them in the end."""
    from service.app import create_app

    started: list[TestClient] = []

    def make(**given: object) -> TestClient:
        client = TestClient(create_app(make_settings(**given)), raise_server_exceptions=False)
        client.__enter__()
        started.append(client)
        return client

    yield make
    for client in started:
        client.__exit__(None, None, None)


@pytest.fixture
def client(make_client: Callable[..., TestClient]) -> TestClient:
    """Start the application on an empty data directory."""
    return make_client()


@pytest.fixture
def collection(client: TestClient) -> str:
    """Make an empty collection and return its path."""
    assert client.put("/v1/collections/c").status_code == 201
    return "/v1/collections/c"


@pytest.fixture
def network_gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hold torch's forward passes while the event is not set; no public door slows a network down."""
    from service.embedding.runtime_torch import TorchRuntime

    gate, compute = threading.Event(), TorchRuntime.run
    gate.set()

    def run(runtime: TorchRuntime, *asked: object) -> object:
        assert gate.wait(60)
        return compute(runtime, *asked)  # type: ignore[arg-type]

    monkeypatch.setattr(TorchRuntime, "run", run)
    yield gate
    gate.set()
