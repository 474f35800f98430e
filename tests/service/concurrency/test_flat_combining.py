import threading
from collections.abc import Sequence

import pytest

from service.concurrency.flat_combining import MAX_COMBINED, FlatCombiner


def test_a_question_alone_is_answered_where_it_is_asked() -> None:
    threads: list[int] = []

    def work(questions: Sequence[int]) -> list[int]:
        threads.append(threading.get_ident())
        return [q * q for q in questions]

    combiner = FlatCombiner(work, 2)
    assert [combiner.ask(i) for i in range(5)] == [0, 1, 4, 9, 16]
    assert threads == [threading.get_ident()] * 5


@pytest.mark.parametrize("leaders", [1, 2, 4])
def test_every_question_gets_its_own_answer_however_many_ask(leaders: int) -> None:
    sizes: list[int] = []
    at_once, most_at_once, lock = 0, 0, threading.Lock()

    def work(questions: Sequence[int]) -> list[int]:
        nonlocal at_once, most_at_once
        with lock:
            at_once += 1
            most_at_once = max(most_at_once, at_once)
            sizes.append(len(questions))
        threading.Event().wait(0.0005)
        with lock:
            at_once -= 1
        return [-q for q in questions]

    combiner = FlatCombiner(work, leaders)
    wrong: list[int] = []

    def ask(thread: int) -> None:
        for i in range(50):
            if combiner.ask(1000 * thread + i) != -(1000 * thread + i):
                wrong.append(i)

    threads = [threading.Thread(target=ask, args=(t,)) for t in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong
    assert sum(sizes) == 40 * 50
    assert most_at_once <= leaders
    assert 1 < max(sizes) <= MAX_COMBINED
    assert combiner.ask(7) == -7  # the lead came back


def test_a_question_that_fails_fails_alone() -> None:
    begun, go = threading.Event(), threading.Event()

    def work(questions: Sequence[int]) -> list[float]:
        if questions == [100]:
            begun.set()
            assert go.wait(30)
        return [1 / q for q in questions]

    combiner = FlatCombiner(work, 1)
    answers: dict[int, float | Exception] = {}

    def ask(question: int) -> None:
        try:
            answers[question] = combiner.ask(question)
        except ZeroDivisionError as error:
            answers[question] = error

    threads = [threading.Thread(target=ask, args=(q,)) for q in (100, 0, 1, 2, 4)]
    threads[0].start()
    assert begun.wait(30)
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(30)
    assert isinstance(answers.pop(0), ZeroDivisionError)
    assert answers == {100: 0.01, 1: 1, 2: 0.5, 4: 0.25}
