from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from backbone import machine
from backbone.machine import peak_resident_bytes, peak_resident_bytes_of, usable_cores

linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system has no /proc")


def of_getrusage() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@linux
def test_a_process_counts_only_the_cores_that_it_may_run_on() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert usable_cores() == len(allowed)


GROWTH = """
import os
from backbone.machine import peak_resident_bytes, peak_resident_bytes_of
before = peak_resident_bytes()
held = b"x" * 2**27
high = peak_resident_bytes()
del held
print(high - before, peak_resident_bytes() - high, (peak_resident_bytes_of(os.getpid()) or high) - high)
"""


def test_the_peak_grows_with_what_is_used_and_does_not_fall_when_that_is_given_back() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", GROWTH], env=environment, capture_output=True, text=True, check=True)
    grown, fallen, by_number = map(int, done.stdout.split())
    assert grown == pytest.approx(2**27, rel=0.05)
    assert fallen == pytest.approx(0, abs=2**22)
    assert by_number == pytest.approx(0, abs=2**22)


def test_without_proc_the_peak_is_that_of_getrusage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "peak_resident_bytes_of", lambda process: None)
    assert peak_resident_bytes() == of_getrusage()


def test_a_process_that_is_not_there_has_no_peak() -> None:
    assert peak_resident_bytes_of(2**22 + 1) is None  # above the largest process number
