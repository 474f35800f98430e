from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from service.concurrency.core_split import CoreSplit

TIMEOUT_S = 20.0


def test_a_call_that_is_alone_has_all_and_two_have_one_each() -> None:
    cores = CoreSplit(["a", "b"])
    with cores.acquire() as alone:
        assert sorted(alone) == ["a", "b"]
    entered, leave = threading.Barrier(3), threading.Event()
    had: list[list[str]] = []

    def call() -> None:
        with cores.acquire() as mine:
            had.append(list(mine))
            entered.wait(TIMEOUT_S)
            assert leave.wait(TIMEOUT_S)

    with ThreadPoolExecutor(2) as pool:
        with cores.acquire():  # so that both come while somebody is there
            calls = [pool.submit(call) for _ in range(2)]
            while cores._calls < 3:
                time.sleep(0.001)
        entered.wait(TIMEOUT_S)
        leave.set()
        for each in calls:
            each.result(TIMEOUT_S)
    assert sorted(had) == [["a"], ["b"]]


def test_who_needs_all_gets_them_though_others_come_again_and_again() -> None:
    cores, ended = CoreSplit(["a", "b"]), threading.Event()

    def come_again() -> None:
        while not ended.is_set():
            with cores.acquire():
                pass

    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(come_again) for _ in range(3)]
        try:
            for _ in range(200):
                with cores.acquire(exclusive=True) as mine:
                    assert sorted(mine) == ["a", "b"]
        finally:
            ended.set()
        for each in others:
            each.result(TIMEOUT_S)
