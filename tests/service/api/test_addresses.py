"""Addresses where images are expected: nothing of this process connects to anything."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from starlette.testclient import TestClient

ADDRESSES = [
    "http://127.0.0.1:9/cat.png",
    "https://example.com/cat.png",
    "HTTP://[::1]/cat.png",
    "//example.com/cat.png",
    "ftp://example.com/cat.png",
    "file:///etc/hostname",
    "gopher://127.0.0.1:9/_x",
    "unix:///var/run/docker.sock",
    "\\\\example.com\\share\\cat.png",
    "data:text/plain,http://example.com/",
    "http:\\\\127.0.0.1:9",
]
# each route that takes an image as JSON, and how
AS_JSON: dict[str, Callable[[str], dict[str, Any]]] = {
    "POST /v1/embed": lambda text: {"images": [text]},
    "POST /v1/embeddings": lambda text: {"input": text},
    "PUT /v1/collections/{c}/points": lambda text: {"points": [{"id": "p", "image": text}]},
    "POST /v1/collections/{c}/query": lambda text: {"image": text},
    "POST /v1/collections/{c}/query/batch": lambda text: {"queries": [{"image": text}]},
    "POST /v1/collections/{c}/classify": lambda text: {"image": text},
    "POST /v1/collections/{c}/clusterings/{g}/query": lambda text: {"image": text},
}
_reached: list[tuple[str, str]] | None = None  # what was asked of the network, while somebody wants to know


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if _reached is not None and event in (
        "socket.connect",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "urllib.Request",
    ):
        _reached.append((event, repr(arguments)))


sys.addaudithook(_listen)  # there is no way to take it off again


@pytest.fixture
def reached() -> Iterator[list[tuple[str, str]]]:
    global _reached
    _reached = []
    yield _reached
    _reached = None


def test_s23_the_hook_sees_what_connects(reached: list[tuple[str, str]]) -> None:
    import socket

    with socket.socket() as listening, socket.socket() as connecting:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        connecting.connect(listening.getsockname())
    assert [event for event, _ in reached] == ["socket.connect"]


def test_s23_no_address_on_any_route_that_takes_an_image_is_fetched(
    client: TestClient, collection: str, reached: list[tuple[str, str]]
) -> None:
    points = [{"id": f"v{index}", "vector": [float(index + 1)] * 32} for index in range(3)]
    client.put(f"{collection}/points", json={"points": points}).raise_for_status()
    clustering = client.post(f"{collection}/clusterings", json={"k": 1}).json()["clustering"]
    operations = {
        f"{method.upper()} {path}": operation.get("requestBody", {}).get("content", {})
        for path, item in client.get("/openapi.json").json()["paths"].items()
        for method, operation in item.items()
    }
    raw = [name for name, content in operations.items() if "image/png" in content]
    forms = [name for name, content in operations.items() if "multipart/form-data" in content]
    assert (len(raw), len(forms)) == (6, 2)

    def send(name: str, **body: Any) -> None:  # noqa: ANN401 - the client's
        method, path = name.split()
        path = path.replace("/{c}", "/c").replace("{g}", clustering).replace("{id}", "p")
        answer = client.request(method, path, **body)
        told = answer.text
        assert answer.status_code in (400, 415, 422) or (answer.status_code == 200 and '"error"' in told), (name, told)

    for address in ADDRESSES:
        for name, make in AS_JSON.items():
            send(name, json=make(address))
        for name in raw:
            query = {"kind": "pca"} if name.endswith("/visualize") else {}
            send(name, params=query, content=address.encode(), headers={"content-type": "image/png"})
        for name in forms:
            send(name, data={"points": '{"points":[{"id":"p"}]}'}, files=[("files", (address, address.encode()))])
    assert reached == []
    assert client.post(f"{collection}/points/count", json={}).json() == {"count": 3}
