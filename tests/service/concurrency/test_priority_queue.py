from __future__ import annotations

import threading
import time

import pytest

from service.concurrency.priority_queue import PriorityQueue

TIMEOUT_S = 20.0


def test_interactive_items_go_first_and_equal_ones_in_the_order_of_arrival() -> None:
    queue: PriorityQueue[str] = PriorityQueue()
    for item in ("bulk 1", "bulk 2", "query 1", "query 2"):
        assert queue.put(item, bulk=item.startswith("bulk"))
    assert len(queue) == 4
    assert queue.take(3) == ["query 1", "query 2", "bulk 1"]
    assert queue.take(3) == ["bulk 2"]


def test_bulk_ages_and_is_not_overtaken_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.concurrency.priority_queue.BULK_DELAY_S", 0.05)
    queue: PriorityQueue[str] = PriorityQueue()
    queue.put("bulk", bulk=True)
    time.sleep(0.1)
    queue.put("query", bulk=False)
    assert queue.take(2) == ["bulk", "query"]


def test_more_is_waited_for_only_while_it_is_coming() -> None:
    queue: PriorityQueue[int] = PriorityQueue()
    queue.put(1, bulk=False)
    assert queue.take(2, 10 * TIMEOUT_S, lambda: False) == [1]
    queue.put(1, bulk=False)
    begun = time.monotonic()
    assert queue.take(2, 0.05, lambda: True) == [1]
    assert time.monotonic() - begun >= 0.05
    queue.put(1, bulk=False)
    threading.Timer(0.05, queue.put, (2, False)).start()
    assert queue.take(2, 10 * TIMEOUT_S, lambda: True) == [1, 2]


def test_a_closed_queue_gives_what_waits_and_takes_nothing_in() -> None:
    queue: PriorityQueue[int] = PriorityQueue()
    queue.put(1, bulk=False)
    queue.close()
    assert not queue.put(2, bulk=False)
    assert queue.take() == [1]
    assert queue.take() == []


def test_closing_wakes_a_worker_that_waits() -> None:
    queue: PriorityQueue[int] = PriorityQueue()
    taken: list[list[int]] = []
    worker = threading.Thread(target=lambda: taken.append(queue.take()))
    worker.start()
    queue.close()
    worker.join(TIMEOUT_S)
    assert taken == [[]]
