"""Training runs in processes of their own, to be stopped, killed and compared.

Each is forked from a server that has the libraries loaded already, so that one costs milliseconds where the command line costs seconds.
"""

from __future__ import annotations

import contextlib
import csv
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path

# What a run measures of the machine and of the time; all other columns must be equal bit by bit.
MACHINE = ("elapsed_s", "images_per_s", "data_wait", "memory_gib")
# When the network is scored depends on the time, what it then scores does not.
SCORES = ("knn", "two_view_recall")

# The smallest network and pictures that the command line takes; drop path and masks draw random numbers in every step.
KEYS = ("--backbone", "vit_tiny_patch4", "depth=1", "image_size=8", "local_size=4", "local_views=1", "batch_size=8")
KEYS += (
    "prototypes=64",
    "head_hidden=32",
    "head_bottleneck=16",
    "knn_images=40",
    "workers=0",
    "devices=1",
    "onnx=false",
)
KEYS += ("precision=32", "log_every=1", "drop_path=0.3", "checkpoint_every_s=0.02")

_servers = multiprocessing.get_context("forkserver")
_servers.set_forkserver_preload(["runs", "training.run", "dinodex.cli"])


def command_line(arguments: Sequence[str], log: Path, environment: Mapping[str, str], before: str) -> None:
    """Be `dinodex ARGUMENTS`, in a session of its own and with everything said written to `log`; runs in the new process.

    `before` is a program that prepares the fault: it runs first, in the same process.
    """
    os.setsid()
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update({"OMP_NUM_THREADS": "1", **environment})
    multiprocessing.set_start_method(None, force=True)  # loader workers as everywhere, not from the server
    sys.argv = ["dinodex", *arguments]
    sys.modules["__main__"].__spec__ = find_spec("dinodex.__main__")  # what Lightning starts further ranks with

    from dinodex.cli import main

    exec(before, {"__name__": "fault"})
    main()


def run_program(text: str) -> int:
    """Run a program in a process of its own and return its exit code."""
    process = _servers.Process(target=exec, args=(text, {"__name__": "program"}))
    process.start()
    return exit_code(process)


@contextmanager
def started(
    arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, before: str = ""
) -> Iterator[BaseProcess]:
    """Start `dinodex ARGUMENTS`; when the block ends, the process and all that it started are gone."""
    process = _servers.Process(target=command_line, args=(arguments, log, environment or {}, before))
    process.start()
    try:
        yield process
    finally:
        end_session(process.pid)
        process.join()


@contextmanager
def started_ranks(arguments: Sequence[str], log: Path, count: int = 2, before: str = "") -> Iterator[list[BaseProcess]]:
    """Start the ranks of one run as a launcher on a single machine does: numbered in the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "NODE_RANK": "0"}
    everything = [*arguments, f"devices={count}", "strategy=ddp"]
    ranks: list[BaseProcess] = []
    try:
        for rank in range(count):
            environment = {**common, "LOCAL_RANK": str(rank)}
            ranks.append(_servers.Process(target=command_line, args=(everything, log, environment, before)))
            ranks[-1].start()
        yield ranks
    finally:
        for process in ranks:
            end_session(process.pid)
            process.join()


def end_session(leader: int | None) -> None:
    """Kill a session's processes, stopped ones too; nothing where all have ended."""
    if leader is None:
        return
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def session(leader: int | None) -> list[int]:
    """Return the processes of a session that run or are stopped."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state, _, _, number = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(number) == leader and state != "Z":
                    found.append(int(entry.name))
    return sorted(found)


def exit_code(process: BaseProcess, timeout_s: float = 60.0) -> int:
    """Wait for the end of a process and return its exit code; minus the signal's number where one ended it."""
    process.join(timeout_s)
    assert process.exitcode is not None, f"still running after {timeout_s} s"
    return process.exitcode


def run(arguments: Sequence[str], log: Path, before: str = "") -> int:
    """Run `dinodex ARGUMENTS` to its end and return the exit code."""
    with started(arguments, log, before=before) as process:
        return exit_code(process)


def run_ranks(arguments: Sequence[str], log: Path, count: int = 2, before: str = "") -> list[int]:
    """Run all ranks of a run to their end and return the exit codes."""
    with started_ranks(arguments, log, count, before) as ranks:
        return [exit_code(process) for process in ranks]


def wait_until(holds: Callable[[], bool], process: BaseProcess | None = None, timeout_s: float = 60.0) -> None:
    """Return when `holds`; the process, where one is given, must still be running."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert process is None or process.exitcode is None, f"the process ended with {process.exitcode}"
        assert time.monotonic() < deadline, f"did not come in {timeout_s} s"
        time.sleep(0.002)


def newest_step(out: Path) -> int:
    """Return the step of the newest checkpoint of a run by its name; 0 where there is none."""
    return max((int(path.stem.removeprefix("step-")) for path in (out / "checkpoints").glob("step-*.ckpt")), default=0)


def rows(out: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv."""
    with (out / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def weights(out: Path) -> str:
    """Return the sha256 of the artifact's weights."""
    return str(json.loads((out / "artifact" / "manifest.json").read_text())["weights_sha256"])


def assert_equal_runs(out: Path, reference: Path) -> None:
    """Compare every number of two finished runs bit by bit, what depends on the machine and the time left out."""
    ours, theirs = rows(out), rows(reference)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for column in mine:
            free = column in MACHINE or (column in SCORES and "" in (mine[column], other[column]))
            assert free or mine[column] == other[column], f"{column} of step {mine['step']}"
    for column in SCORES:
        assert ours[-1][column] == theirs[-1][column]
    assert weights(out) == weights(reference)
