from __future__ import annotations

import os
import signal
import time

import pytest

from training.errors import LoadingStopped
from training.processes.stopping import StopSignals


def test_u12_a_stop_is_raised_where_no_images_come() -> None:
    asked: list[bool] = []
    signals = StopSignals(patience_s=0.05)
    signals.take(lambda: asked.append(True), lambda: True)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(LoadingStopped, match=r"did not come for 0\.05 s; go on with --resume"):
            time.sleep(5)
    finally:
        signals.give_back()
    assert asked == [True]


def test_u12_a_step_that_takes_its_time_is_left_in_peace_and_the_next_wait_is_not() -> None:
    waiting = False
    signals = StopSignals(patience_s=0.05)
    signals.take(lambda: None, lambda: waiting)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        waiting = True
        with pytest.raises(LoadingStopped):
            time.sleep(5)
    finally:
        signals.give_back()


def test_u12_signals_and_timer_are_given_back() -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    signals = StopSignals(patience_s=30.0)
    signals.take(lambda: None, lambda: True)
    signals.take(lambda: pytest.fail("twice"), lambda: True)
    os.kill(os.getpid(), signal.SIGTERM)
    signals.give_back()
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
