"""Cancellation (S32): a caller who leaves frees its place in the queue, and what it left waiting is not computed."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import httpx
import pytest
from pictures import encoded, picture
from sockets import connected, listening_service

if TYPE_CHECKING:
    from service.settings import Settings

PICTURE = encoded(picture())
AS_JSON = json.dumps({"images": [base64.b64encode(PICTURE).decode()] * 3}).encode()
AS_OPENAI = json.dumps({"input": base64.b64encode(PICTURE).decode()}).encode()
AS_TARGET = json.dumps({"image": base64.b64encode(PICTURE).decode()}).encode()
WAYS = {
    "raw": ("/v1/embed", "image/png", PICTURE, 1),
    "list": ("/v1/embed", "application/json", AS_JSON, 3),
    "openai": ("/v1/embeddings", "application/json", AS_OPENAI, 1),
    "picture": ("/v1/visualize?kind=pca", "image/png", PICTURE, 1),
    "query": ("/v1/collections/c/query", "image/png", PICTURE, 1),
    "target": ("/v1/collections/c/classify", "application/json", AS_TARGET, 1),
}


@pytest.fixture
def url(make_settings: Callable[..., Settings], network_gate: threading.Event) -> Iterator[str]:
    # A busy machine takes a second for the first image; what is reckoned from that refuses nobody here.
    settings = make_settings(batch_images=1, queue_images=64, queue_wait_s=60)
    with listening_service(settings) as port:
        found = f"http://127.0.0.1:{port}"
        httpx.put(f"{found}/v1/collections/c").raise_for_status()
        network_gate.clear()
        yield found
        network_gate.set()


def count(url: str, name: str) -> float:
    """Return a counter of the service."""
    text = httpx.get(f"{url}/metrics").text
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (.*)$", text, re.MULTILINE))


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("way", WAYS)
def test_s32_who_leaves_frees_a_place_and_what_was_left_is_not_computed(
    url: str, network_gate: threading.Event, way: str
) -> None:
    path, kind, content, images = WAYS[way]
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
    staying: list[int] = []

    def stay() -> None:
        answer = httpx.post(f"{url}/v1/embed", content=PICTURE, headers={"content-type": "image/png"}, timeout=60)
        staying.append(answer.status_code)

    first = threading.Thread(target=stay)
    first.start()
    wait_for(lambda: count(url, "dinodex_queue_images") == 1)
    passes = count(url, "dinodex_batch_images_count")
    for callers in (1, 2):
        with connected(int(url.rpartition(":")[2])) as connection:
            connection.sendall(head.encode() + content)
            wait_for(lambda: count(url, "dinodex_queue_images") == 1 + images)
        wait_for(lambda: count(url, "dinodex_queue_images") == 1)
        wait_for(lambda callers=callers: count(url, "dinodex_waiting_for_decoder_images") == 0)  # type: ignore[misc]
    network_gate.set()
    first.join(60)
    assert staying == [200]
    stay()
    assert count(url, "dinodex_batch_images_count") == passes + 2
    assert count(url, "dinodex_cancelled_images_total") == 2 * images
    assert 'status="499"' in httpx.get(f"{url}/metrics").text


def test_probes_at_the_same_time_take_one_place_between_them(url: str, network_gate: threading.Event) -> None:
    statuses: list[int] = []

    def probe() -> None:
        with httpx.Client() as client:
            statuses.append(client.get(f"{url}/readyz", timeout=60).status_code)

    probes = [threading.Thread(target=probe) for _ in range(40)]
    for each in probes:
        each.start()
    wait_for(lambda: count(url, "dinodex_queue_images") == 1)
    time.sleep(0.3)
    assert count(url, "dinodex_queue_images") == 1
    network_gate.set()
    for each in probes:
        each.join(60)
    assert statuses == [200] * 40
    assert count(url, "dinodex_batch_images_count") <= 2
