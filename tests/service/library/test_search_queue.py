"""S40: more searches than the service can do. Those beyond the bound hear so at once, and nobody else waits for them."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from pictures import encoded, picture
from sockets import connected, listening_service

from service.concurrency.flat_combining import MAX_COMBINED
from service.errors import Saturated
from service.index.row_set import RowSet
from service.index.vector_index import Rows, View
from service.library.search_queue import SearchQueue
from service.points import Vector

if TYPE_CHECKING:
    from service.settings import Settings

MAX_RUNNING = MAX_COMBINED  # with one core
PICTURE = encoded(picture())
VECTORS = np.random.default_rng(0).normal(size=(40, 32)).astype(np.float32)
FILTER = {"must": [{"key": "n", "range": {"lt": 20}}]}
BODY = json.dumps({"vector": VECTORS[0].tolist()}).encode()
HEAD = (
    b"POST /v1/collections/c/query HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    % len(BODY)
)


class Asked:
    """A service whose searches wait for a gate, and the callers that ask it."""

    def __init__(self, port: int, gate: threading.Event, computed: list[int], pool: ThreadPoolExecutor) -> None:
        self.port = port
        self.gate = gate
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=60, limits=httpx.Limits(max_connections=None)
        )
        self._computed = computed
        self._pool = pool

    @property
    def computed(self) -> int:
        """Return for how many queries a search was begun."""
        return sum(self._computed)

    def query(self, number: int = 0) -> httpx.Response:
        return self.client.post("/v1/collections/c/query", json={"vector": VECTORS[number % len(VECTORS)].tolist()})

    def queries(self, count: int) -> list[Future[httpx.Response]]:
        return [self._pool.submit(self.query, number) for number in range(count)]

    def metric(self, name: str) -> float:
        text = self.client.get("/metrics").text
        return sum(float(value) for value in re.findall(rf"^dinodex_{name} (.*)$", text, re.MULTILINE))

    def wait_until(self, running: int, waiting: int) -> None:
        end = time.monotonic() + 30
        while (found := (self.metric("running_searches"), self.metric("waiting_searches"))) != (running, waiting):
            assert time.monotonic() < end, found
            time.sleep(0.01)

    @contextmanager
    def full(self, waiting: int = 0) -> Iterator[list[Future[httpx.Response]]]:
        """Hold as many searches as run at once, and so many more that wait."""
        self.gate.clear()
        try:
            asked = self.queries(MAX_RUNNING)
            self.wait_until(MAX_RUNNING, 0)
            asked += self.queries(waiting)
            self.wait_until(MAX_RUNNING, waiting)
            yield asked
        finally:
            self.gate.set()

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Wait in the queue with a search, and hang up."""
        with connected(self.port) as connection:
            connection.sendall(HEAD + BODY)
            yield


@pytest.fixture
def ask(make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Asked]]:
    """Start a service with the settings given, with points, a clustering, and a gate in front of its index."""
    gate, computed, search = threading.Event(), list[int](), View.search

    def held(view: View, queries: Vector, k: int, allowed: RowSet | None, exact: bool) -> tuple[Vector, Rows]:
        computed.append(len(queries))
        assert gate.wait(60)
        return search(view, queries, k, allowed, exact)

    gate.set()
    monkeypatch.setattr(View, "search", held)
    running: list[Any] = []

    def start(**given: object) -> Asked:
        service = listening_service(make_settings(**given))
        asked = Asked(service.__enter__(), gate, computed, ThreadPoolExecutor(200))
        running.append((service, asked))
        points = [
            {"id": f"p{i}", "vector": row.tolist(), "label": f"l{i % 3}", "payload": {"n": i}}
            for i, row in enumerate(VECTORS)
        ]
        asked.client.put("/v1/collections/c").raise_for_status()
        asked.client.put("/v1/collections/c/points", json={"points": points}).raise_for_status()
        return asked

    yield start
    gate.set()
    for service, asked in running:
        asked._pool.shutdown()
        asked.client.close()
        service.__exit__(None, None, None)


def test_s40_one_search_more_than_may_wait_is_refused_at_once_and_the_others_are_answered_as_ever(
    ask: Callable[..., Asked],
) -> None:
    service = ask(queue_searches=2)
    alone = [service.query(number).json() for number in range(MAX_RUNNING)]
    computed = service.computed
    with service.full(waiting=2) as asked:
        refused, took_s = [], []
        for _ in range(20):
            begun = time.perf_counter()
            refused.append(service.query())
            took_s.append(time.perf_counter() - begun)
    answers = [each.result(60) for each in asked]
    assert [answer.status_code for answer in answers] == [200] * (MAX_RUNNING + 2)
    assert [answer.json() for answer in answers] == alone + alone[:2]
    for answer in refused:
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "saturated", "1")
    assert min(took_s) < 0.005
    assert service.computed == computed + MAX_RUNNING + 2
    service.wait_until(0, 0)
    assert service.query().status_code == 200, "there is room again"


def test_s40_everything_that_looks_through_a_collection_waits_in_the_queue(ask: Callable[..., Asked]) -> None:
    service = ask(queue_searches=1)
    made = service.client.post("/v1/collections/c/clusterings", json={"k": 3}).json()["clustering"]
    vector = {"vector": VECTORS[0].tolist()}
    bodies: dict[str, dict[str, Any]] = {
        "query": {"json": vector},
        "query/batch": {"json": {"queries": [vector, {"id": "p1"}]}},
        "classify": {"json": vector},
        f"clusterings/{made}/query": {"json": vector},
        "points/count": {"json": {"filter": FILTER}},
        "points/scroll": {"json": {"filter": FILTER}},
    }

    def statuses() -> dict[str, int]:
        return {
            path: service.client.post(f"/v1/collections/c/{path}", **body).status_code for path, body in bodies.items()
        }

    assert set(statuses().values()) == {200}
    with service.full(waiting=1):
        assert set(statuses().values()) == {503}
    service.wait_until(0, 0)
    assert set(statuses().values()) == {200}


def test_s40_an_image_to_search_by_is_not_embedded_where_there_is_no_room_to_search(ask: Callable[..., Asked]) -> None:
    service = ask(queue_searches=1)
    before = service.metric("batch_images_count")
    with service.full(waiting=1):
        answer = service.client.post("/v1/collections/c/query", content=PICTURE, headers={"content-type": "image/png"})
        assert (answer.status_code, answer.json()["code"]) == (503, "saturated")
        assert service.metric("batch_images_count") == before


def test_s40_a_search_without_room_is_refused_before_its_body_is_there(ask: Callable[..., Asked]) -> None:
    service = ask(queue_searches=1)
    with service.full(waiting=1), connected(service.port) as connection:
        connection.sendall(HEAD)
        assert connection.recv(65536).startswith(b"HTTP/1.1 503 ")


def test_s40_writes_reads_probes_and_embedding_go_on_while_searches_fill_their_queue(ask: Callable[..., Asked]) -> None:
    service = ask(queue_searches=100)
    image = {"content": PICTURE, "headers": {"content-type": "image/png"}}
    with service.full(waiting=100):
        for method, path, body, status in (
            ("GET", "/livez", {}, 200),
            ("GET", "/readyz", {}, 200),
            ("POST", "/v1/embed", image, 200),
            ("PUT", "/v1/collections/c/points/new", image, 200),
            ("PUT", "/v1/collections/other", {}, 201),
            ("PATCH", "/v1/collections/c/points/new", {"json": {"label": "l9"}}, 200),
            ("GET", "/v1/collections/c/points/new", {}, 200),
            ("GET", "/v1/collections/c", {}, 200),
            ("POST", "/v1/collections/c/points/count", {}, 200),
            ("POST", "/v1/collections/c/points/scroll", {}, 200),
            ("DELETE", "/v1/collections/c/points/new", {}, 204),
        ):
            assert service.client.request(method, path, **body).status_code == status, path
        assert service.metric("running_searches") == MAX_RUNNING
        assert service.metric("waiting_searches") == 100


def test_s40_a_search_that_would_wait_for_more_work_than_a_request_may_is_refused(ask: Callable[..., Asked]) -> None:
    service = ask(queue_wait_s=1e-9)
    for number in range(MAX_RUNNING):  # so that there is a throughput
        service.query(number)
    with service.full(waiting=1):
        answer = service.query()
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "saturated", "1")
        assert "the searches that wait take" in answer.json()["detail"]


def test_the_first_to_end_of_searches_that_came_together_is_not_taken_for_the_throughput_of_all() -> None:
    async def refusals() -> list[Saturated | None]:
        queue = SearchQueue(1, queue_searches=100, queue_wait_s=0.05, embed_timeout_s=30)

        async def search(gate: threading.Event) -> None:
            with queue.slot(1) as slot:
                await queue.wait_until_granted(slot)
                await queue.run(slot, lambda: gate.wait(60))

        gates = [threading.Event() for _ in range(2 * MAX_RUNNING)]
        asked = [asyncio.create_task(search(gate)) for gate in gates]
        await asyncio.sleep(0.1)  # which is what all of them take
        found = []
        for gate in gates:
            gate.set()
            await asyncio.sleep(0.001)
            found.append(queue.refusal())
        await asyncio.gather(*asked)
        return found

    assert asyncio.run(refusals()) == [None] * 2 * MAX_RUNNING


def test_s40_a_search_that_waits_past_its_deadline_is_504_and_is_not_computed(ask: Callable[..., Asked]) -> None:
    service = ask(embed_timeout_s=0.3)
    with service.full() as asked:
        late = service.query()
        assert (late.status_code, late.json()["code"], late.headers["retry-after"]) == (504, "deadline_passed", "5")
        service.wait_until(MAX_RUNNING, 0)
    assert [each.result(60).status_code for each in asked] == [200] * MAX_RUNNING, "what has begun has no deadline"
    assert service.computed == MAX_RUNNING


def test_s32_who_leaves_while_waiting_frees_the_place_and_is_not_computed(ask: Callable[..., Asked]) -> None:
    service = ask(queue_searches=1)
    with service.full() as asked:
        for _ in range(3):
            with service.one_more():
                service.wait_until(MAX_RUNNING, 1)
                assert service.query().status_code == 503
            service.wait_until(MAX_RUNNING, 0)
    for each in asked:
        each.result(60)
    service.wait_until(0, 0)
    assert service.computed == MAX_RUNNING
    assert service.metric(r'refusals_total{code="caller_left"}') == 3


def test_who_leaves_a_search_that_runs_holds_its_place_until_that_ends(ask: Callable[..., Asked]) -> None:
    service = ask(queue_searches=1)
    service.gate.clear()
    with service.one_more():
        service.wait_until(1, 0)
    asked = service.queries(MAX_RUNNING)
    service.wait_until(MAX_RUNNING, 1)
    service.gate.set()
    assert [each.result(60).status_code for each in asked] == [200] * MAX_RUNNING
    service.wait_until(0, 0)


def test_the_wait_of_a_search_is_seen_in_its_answer_and_the_counters(ask: Callable[..., Asked]) -> None:
    service = ask(queue_searches=1)
    assert service.query().headers["server-timing"].startswith("search;")
    with service.full(waiting=1) as asked:
        assert service.query().status_code == 503
        time.sleep(0.1)
    timings = [each.result(60).headers["server-timing"] for each in asked]
    waited = [re.match(r"queue;dur=(.*), search;", found) for found in timings]
    assert [each is not None for each in waited] == [False] * MAX_RUNNING + [True]
    assert waited[-1] is not None
    assert float(waited[-1][1]) >= 100
    assert service.metric(r'stage_seconds_count{stage="queue"}') == 1
    assert service.metric(r'refusals_total{code="saturated"}') == 1
