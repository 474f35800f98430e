"""What costs too much to be made before somebody needs it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Late(Generic[Made]):
    """Something that is made when it is first asked for, and once, however many threads ask."""

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._outcome: Future[Made] = Future()

    def get(self) -> Made:
        """Return it. The first caller makes it, and the others wait; what kept it from being made is raised for each of them."""
        with self._lock:
            if not self._outcome.done():
                try:
                    self._outcome.set_result(self._make())
                except BaseException as error:  # noqa: BLE001 - it belongs to every caller, and is raised for this one below
                    self._outcome.set_exception(error)
        return self._outcome.result()
