"""A loader's process: it leaves signals to the run, and what fails in its threads ends it, with a word to the run.

A process's own threads hand its batches over. What fails there is printed by the libraries, and the batch is never sent: the run would
wait for it for ever. A process that ends is noticed at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.queues import Queue, SimpleQueue
from types import TracebackType

FAILED = 1  # the exit code of a loader's process that failed


class LastWords:
    """What loaders' processes say before they end, made by the run before it starts them, and called by each in its beginning."""

    def __init__(self) -> None:
        self._said: SimpleQueue[str] = multiprocessing.SimpleQueue()

    def __call__(self, worker: int) -> None:
        """Begin the process of a loader.

        It outlives the wish to stop: `timeout` and systemd send SIGTERM to all processes of a job, and the last step needs its images.
        The run ends its loaders itself.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        Queue._on_queue_feeder_error = staticmethod(self._not_sent)  # type: ignore[attr-defined]
        threading.excepthook = lambda failure: self._end(failure.exc_value)
        sys.excepthook = self._not_handed_over

    def heard(self) -> str | None:
        """Return what the first that failed said; None where none did."""
        return None if self._said.empty() else self._said.get()

    def _not_sent(self, error: BaseException, _: object) -> None:
        self._end(error)

    def _not_handed_over(self, _: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
        """The thread that hands over reports so and goes on; whoever asked it sees the connection end."""
        self._say(error)

    def _end(self, error: BaseException | None) -> None:
        self._say(error)
        os._exit(FAILED)

    def _say(self, error: BaseException | None) -> None:
        self._said.put(brief(error) if error is not None else "")


def brief(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
