"""Questions that are asked at the same time are answered together, by the threads that ask them.

As many threads as there are cores lead: each takes what waits, its own question with it, answers all of that at once, and hands the
lead to whoever came meanwhile. Alone, a question is answered where it is asked and waits for nobody. Eight threads that search on
two cores otherwise hand the interpreter lock around more than they search.
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

MOST = 32  # questions answered together: a few milliseconds of searching


@dataclass(eq=False)
class _Asked(Generic[Q, A]):
    """A question, its answer to be, and what its thread is told: True to take the lead, False that the answer is there."""

    question: Q
    answer: Future[A] = field(default_factory=Future)
    told: queue.SimpleQueue[bool] = field(default_factory=queue.SimpleQueue)


class FlatCombiner(Generic[Q, A]):
    """Answers questions with `work`, which gets several and returns their answers in order. Any thread may ask."""

    def __init__(self, work: Callable[[Sequence[Q]], Sequence[A]], leaders: int) -> None:
        self._work = work
        self._leaders = leaders
        self._leading = 0
        self._waiting: list[_Asked[Q, A]] = []
        self._lock = threading.Lock()

    def ask(self, question: Q) -> A:
        """Return the answer to a question. Raises what `work` raises for it alone."""
        mine: _Asked[Q, A] = _Asked(question)
        with self._lock:
            self._waiting.append(mine)
            leads = self._leading < self._leaders
            self._leading += leads
        if leads:
            self._lead()
        while mine.told.get():
            self._lead()
        return mine.answer.result()

    def _lead(self) -> None:
        """Answer what waits, then hand the lead on."""
        with self._lock:
            taken, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        try:
            self._answer(taken)
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting[0].told.put(True)  # it is told so before anybody can take its question
                else:
                    self._leading -= 1
            for asked in taken:
                asked.told.put(False)

    def _answer(self, taken: Sequence[_Asked[Q, A]]) -> None:
        try:
            answers = self._work([asked.question for asked in taken])
            for asked, answer in zip(taken, answers, strict=True):
                asked.answer.set_result(answer)
        except Exception as error:  # noqa: BLE001 - boundary: it belongs to the one whose question it was, once that is known
            if len(taken) == 1:
                taken[0].answer.set_exception(error)
                return
            for asked in taken:
                self._answer([asked])
