"""Halves of a processor: all of it for a call that is alone, half for each of two."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.halves import Halves

TIMEOUT_S = 20.0


def test_a_call_that_is_alone_has_both_halves() -> None:
    halves = Halves("ab")
    for _ in range(2):
        with halves.taken() as mine:
            assert sorted(mine) == ["a", "b"]


def test_calls_that_are_not_alone_have_one_half_each_and_a_third_waits() -> None:
    halves, inside, go_on = Halves("ab"), threading.Semaphore(0), threading.Event()
    held, lock, most = [], threading.Lock(), 0

    def call() -> None:
        nonlocal most
        with halves.taken() as mine:
            with lock:
                held.extend(mine)
                most = max(most, len(held))
                assert len(set(held)) == len(held), "two calls have the same half"
            inside.release()
            assert go_on.wait(TIMEOUT_S)
            with lock:
                for each in mine:
                    held.remove(each)

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(call) for _ in range(4)]
        assert inside.acquire(timeout=TIMEOUT_S)
        go_on.set()
        for each in calls:
            each.result(TIMEOUT_S)
    assert most == 2


def test_a_call_that_fails_gives_back_what_it_had() -> None:
    halves = Halves("ab")
    with pytest.raises(ValueError, match="failed"), halves.taken():
        raise ValueError("failed")
    with halves.taken() as mine:
        assert len(mine) == 2


def test_one_thread_is_one_half_for_all_calls_one_after_the_other() -> None:
    halves = Halves("a")
    with ThreadPoolExecutor(2) as pool, halves.taken():
        waiting = pool.submit(lambda: halves.taken().__enter__())
        with pytest.raises(TimeoutError):
            waiting.result(0.05)
