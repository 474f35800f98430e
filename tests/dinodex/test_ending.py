"""However a command ends, it says one sentence and gives an exit code; most need a process of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from dinodex import __main__, exits

# A command that fails as it is told to, beside dinodex' own.
PROGRAM = """
import sys, threading, time
from dinodex.cli import app, main

@app.command()
def fail(how: str):
    if how in ("thread", "thread of a busy command"):
        threading.Thread(target=lambda: 1 / 0).start()
    if how == "thread":
        threading.Event().wait()
    while how == "thread of a busy command":
        time.sleep(0.01)
    if how == "wait":
        print("waiting", flush=True)
        threading.Event().wait()
    if how == "destructor":
        class Late:
            def __del__(self):
                raise ValueError
        Late()
    if how == "bug":
        raise ValueError("what no one thought of")
    if how == "a connection":
        raise BrokenPipeError(32, "Broken pipe")
    for line in range(100_000 if how == "much" else 1):
        print("line", line)

sys.argv[0] = "dinodex"
main()
"""
SENTENCE = "dinodex: this is a mistake in dinodex, {}; run it again as `dinodex --debug ...` and report the trace.\n"


def started(
    *arguments: str, stdout: int = subprocess.PIPE, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (environment or {}),
        cwd=Path(__file__).parents[2],
    )


@contextmanager
def ctrl_c(meaning: signal.Handlers) -> Iterator[None]:
    """Let processes that are started meanwhile begin with this meaning of Ctrl-C."""
    before = signal.signal(signal.SIGINT, meaning)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out or "", err


@pytest.mark.parametrize("how", ["thread", "thread of a busy command"])
def test_u14_an_error_in_a_thread_ends_the_command_that_waits_for_it_or_goes_on(how: str) -> None:
    assert ended(started("fail", how)) == (70, "", SENTENCE.format("ZeroDivisionError: division by zero"))


def test_u14_an_error_in_a_thread_ends_a_command_to_which_ctrl_c_means_nothing() -> None:
    with ctrl_c(signal.SIG_IGN):  # as a shell does for what runs in the background
        process = started("fail", "thread")
    assert ended(process)[0] == 70


def test_u14_the_trace_is_for_those_who_ask() -> None:
    message = "ValueError: what no one thought of"
    assert ended(started("fail", "bug")) == (70, "", SENTENCE.format(message))
    for process in (
        started("--debug", "fail", "bug"),
        started("fail", "bug", "--debug"),
        started("fail", "bug", environment={"DINODEX_DEBUG": "1"}),
    ):
        code, _, err = ended(process)
        assert code == 70
        assert err.startswith("Traceback")
        assert err.endswith(SENTENCE.format(message))


def test_u14_what_fails_in_a_destructor_changes_nothing() -> None:
    assert ended(started("fail", "destructor")) == (0, "line 0\n", "")


def test_u14_ctrl_c_is_one_word() -> None:
    with ctrl_c(signal.SIG_DFL):  # the tests themselves may run in the background
        process = started("fail", "wait")
    assert process.stdout
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "", "dinodex: interrupted\n")


@pytest.mark.parametrize("how", ["much", "little"])
def test_u14_output_that_nobody_reads_ends_the_command_without_a_word(how: str) -> None:
    read, write = os.pipe()
    process = started("fail", how, stdout=write)
    os.close(write)
    os.close(read)
    assert ended(process) == (141, "", "")


def test_u14_a_connection_that_breaks_is_not_taken_for_output_that_nobody_reads() -> None:
    code, _, err = ended(started("fail", "a connection"))
    assert code == 74
    assert err.startswith("dinodex: a connection ended")
    assert err.count("\n") == 1


@pytest.mark.parametrize("how", ["much", "little"])
def test_u14_output_onto_a_full_disk_is_one_sentence(how: str) -> None:
    with Path("/dev/full").open("w") as full:
        code, _, err = ended(started("fail", how, stdout=full.fileno()))
    assert (code, err) == (74, "dinodex: the system refused, No space left on device; make room on the disk.\n")


def test_u14_ctrl_c_while_the_command_line_is_imported_is_no_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "dinodex.cli", Interrupted("dinodex.cli"))
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == exits.INTERRUPTED
    assert capsys.readouterr().err == "dinodex: interrupted\n"
