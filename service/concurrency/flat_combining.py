"""Flat combining (Hendler, Incze, Shavit and Tzafrir 2010): requests that come together are answered together.

As many threads as there are cores lead: each takes the requests that wait, its own among them, answers all of them at once, and hands
the lead to one that came meanwhile. The others follow: they sleep until their answer is there. Alone, a request is answered where it is
made and waits for nobody. Eight threads that search on two cores otherwise hand the interpreter lock around more than they search.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")

MAX_COMBINED = 32  # requests answered together: a few milliseconds of searching


@dataclass(eq=False)
class _Request(Generic[Q, A]):
    """A question, its answer to be, and what its thread is told: True to take the lead, False that the answer is there."""

    question: Q
    answer: Future[A] = field(default_factory=Future)
    told: queue.SimpleQueue[bool] = field(default_factory=queue.SimpleQueue)


class FlatCombiner(Generic[Q, A]):
    """Answers questions with `work`, which gets several and returns their answers in order. Any thread may ask."""

    def __init__(self, work: Callable[[Sequence[Q]], Sequence[A]], max_leaders: int) -> None:
        self._work = work
        self._max_leaders = max_leaders
        self._leaders = 0
        self._pending: list[_Request[Q, A]] = []
        self._lock = threading.Lock()

    def ask(self, question: Q) -> A:
        """Return the answer to a question. Raises what `work` raises for it alone."""
        request: _Request[Q, A] = _Request(question)
        with self._lock:
            self._pending.append(request)
            leads = self._leaders < self._max_leaders
            self._leaders += leads
        if leads:
            self._lead()
        while request.told.get():
            self._lead()
        return request.answer.result()

    def _lead(self) -> None:
        """Answer what is pending, then hand the lead on."""
        with self._lock:
            batch, self._pending = self._pending[:MAX_COMBINED], self._pending[MAX_COMBINED:]
        try:
            self._answer(batch)
        finally:
            with self._lock:
                if self._pending:
                    self._pending[0].told.put(True)  # it is told so before anybody can take its question
                else:
                    self._leaders -= 1
            for request in batch:
                request.told.put(False)

    def _answer(self, batch: Sequence[_Request[Q, A]]) -> None:
        try:
            answers = self._work([request.question for request in batch])
            for request, answer in zip(batch, answers, strict=True):
                request.answer.set_result(answer)
        except Exception as error:  # noqa: BLE001 - boundary: it belongs to the one whose question it was, once that is known
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for request in batch:
                self._answer([request])
