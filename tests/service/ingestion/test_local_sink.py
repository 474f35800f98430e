from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.ingestion.local_sink import Once

THREADS = 8


def together(late: Once[object]) -> list[object]:
    """Return what each of many threads that ask at the same time gets, or meets."""
    start = threading.Barrier(THREADS)

    def ask(_: int) -> object:
        start.wait()
        try:
            return late.get()
        except OSError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(ask, range(THREADS)))


def test_it_is_made_when_it_is_asked_for_and_once_for_all_threads() -> None:
    made: list[object] = []

    def make() -> object:
        time.sleep(0.05)
        made.append(object())
        return made[-1]

    late = Once(make)
    assert made == []
    assert together(late) == made * THREADS
    assert len(made) == 1


def test_what_kept_it_from_being_made_is_raised_for_every_caller_and_not_tried_again() -> None:
    tries: list[int] = []

    def make() -> object:
        time.sleep(0.05)
        tries.append(1)
        raise OSError("no room")

    late = Once(make)
    assert [str(error) for error in together(late)] == ["no room"] * THREADS
    with pytest.raises(OSError, match="no room"):
        late.get()
    assert tries == [1]
