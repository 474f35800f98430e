from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from backbone import machine
from training import memory
from training.memory import GIB, peak_memory_gib

CPU = torch.device("cpu")
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system has no /proc")


def test_it_is_the_resident_peak_that_the_system_knows() -> None:
    known = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / GIB
    assert not multiprocessing.active_children()
    assert 0.05 < peak_memory_gib(CPU) <= known * 1.01


GROWTH = """
import numpy as np, torch
from training.memory import peak_memory_gib
before = peak_memory_gib(torch.device("cpu"))
held = np.ones(2**29 // 8)
high = peak_memory_gib(torch.device("cpu"))
del held
print(high - before, peak_memory_gib(torch.device("cpu")) - high)
"""


def test_it_grows_with_what_is_used_and_does_not_fall_when_that_is_given_back() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", GROWTH], env=environment, capture_output=True, text=True, check=True)
    grown, fallen = (float(word) for word in done.stdout.split())
    assert 0.45 < grown < 0.6
    assert fallen == pytest.approx(0.0, abs=0.02)


WORKERS = """
import numpy as np, torch
from torch.utils.data import DataLoader, Dataset
from training.memory import peak_memory_gib

class Large(Dataset):
    def __len__(self): return 2
    def __getitem__(self, index): return int(np.ones(200 * 2**20 // 8).sum() > 0)

cpu = torch.device("cpu")
alone = peak_memory_gib(cpu)
batches = iter(DataLoader(Large(), num_workers=2, persistent_workers=True))
assert [int(batch) for batch in batches] == [1, 1]
helped = peak_memory_gib(cpu)
batches._shutdown_workers()
print(helped - alone, peak_memory_gib(cpu) - alone)
"""


@linux
def test_the_workers_that_load_images_count_while_they_live() -> None:
    """In a process of its own: one with threads of many libraries is not fit to be forked."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", WORKERS], env=environment, capture_output=True, text=True, check=True)
    helped, afterwards = (float(word) for word in done.stdout.split())
    assert helped > 2 * 0.19
    assert afterwards == pytest.approx(0.0, abs=0.02)


@linux
def test_a_worker_that_has_just_ended_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = peak_memory_gib(CPU)
    child = os.fork()
    if child == 0:
        os._exit(0)  # a zombie until it is waited for: its status has no mark
    gone = 2**22 + 1  # above the largest process number
    children = [SimpleNamespace(pid=number) for number in (child, gone)]
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    monkeypatch.setattr(multiprocessing, "active_children", lambda: children)
    assert peak_memory_gib(CPU) == pytest.approx(alone, rel=0.05)
    os.waitpid(child, 0)


def test_without_proc_it_is_this_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = peak_memory_gib(CPU)
    monkeypatch.setattr(machine, "peak_resident_bytes_of", lambda process: None)
    monkeypatch.setattr(memory, "peak_resident_bytes_of", lambda process: None)
    assert peak_memory_gib(CPU) == pytest.approx(expected, rel=0.1)


def test_on_a_gpu_it_is_what_pytorch_had_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: asked.append(device) or 3 * 2**29)
    assert peak_memory_gib(torch.device("cuda:1")) == 1.5
    assert asked == [torch.device("cuda:1")]
