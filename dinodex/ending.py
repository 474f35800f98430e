"""The end of a command: one sentence on stderr and an exit code, whatever was raised and in whichever thread.

A trace is for those who ask for it: `dinodex --debug ...`, or DINODEX_DEBUG=1.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dinodex.exits import INTERRUPTED, OUTPUT_CLOSED, verdict

# A run may be in the middle of a step, and it saves itself first; beyond that whatever waits for the lost thread would wait for ever.
END_WITHIN_S = 60.0


class Ending:
    """Runs a command to its end."""

    def __init__(self, *, debug: bool) -> None:
        self._debug = debug
        self._code_of_thread = 0  # of the first thread that failed; 0: none has

    def run(self, command: Callable[[], object]) -> int:
        """Call `command`, and return the exit code of how it ended."""
        with self._hooks():
            code = self._run(command) or _flushed()
            return self._code_of_thread or code

    def _run(self, command: Callable[[], object]) -> int:
        try:
            command()
        except SystemExit as ended:
            return self._asked(ended)
        except KeyboardInterrupt:
            return self._interrupted()
        except BaseException as error:  # noqa: BLE001 - this is the top
            return self._failed(error)
        return 0

    def _asked(self, ended: SystemExit) -> int:
        """Two exceptions come as codes: a lost reader and Ctrl-C from the framework, and the latter from Lightning too."""
        if isinstance(ended.__context__, BrokenPipeError):
            return OUTPUT_CLOSED if _output_is_closed() else self._failed(ended.__context__)
        if isinstance(ended.__context__, KeyboardInterrupt) or ended.code == INTERRUPTED:
            return self._interrupted()
        if isinstance(ended.code, str):
            print(f"dinodex: {ended.code}", file=sys.stderr)  # noqa: T201 - this is the terminal
            return 1
        return ended.code or 0

    def _interrupted(self) -> int:
        if not self._code_of_thread:  # else it was the thread that failed who interrupted us
            print("dinodex: interrupted", file=sys.stderr)  # noqa: T201 - this is the terminal
        return INTERRUPTED

    def _failed(self, error: BaseException) -> int:
        sentence, code = verdict(error)
        with contextlib.suppress(OSError):  # nobody reads that either
            if self._debug:
                traceback.print_exception(error)
            print(f"dinodex: {sentence}", file=sys.stderr, flush=True)  # noqa: T201 - this is the terminal
        return code

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        """Take what threads, destructors and the log would print; whoever hooked in before (a test runner) keeps it."""
        before = threading.excepthook, sys.unraisablehook, logging.raiseExceptions
        if threading.excepthook is threading.__excepthook__:
            threading.excepthook = self._thread_failed
        if sys.unraisablehook is sys.__unraisablehook__ and not self._debug:
            sys.unraisablehook = _pass_over
        logging.raiseExceptions = self._debug
        try:
            yield
        finally:
            threading.excepthook, sys.unraisablehook, logging.raiseExceptions = before

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """End the command; in the failed thread. The main one may be at work or wait for this thread's result, which never comes."""
        if self._code_of_thread or failure.exc_value is None or isinstance(failure.exc_value, SystemExit):
            return
        self._code_of_thread = self._failed(failure.exc_value)
        main = threading.main_thread()
        if callable(signal.getsignal(signal.SIGINT)) and main.ident is not None:
            signal.pthread_kill(main.ident, signal.SIGINT)
            main.join(END_WITHIN_S)
            if not main.is_alive():
                return
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(self._code_of_thread)


def _pass_over(_: object) -> None:
    """What fails in a destructor changes nothing any more."""


def _flushed() -> int:
    """Write what is left of the output; the interpreter would fail at it later, with a trace."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError) as error:
        _forget_output()
        if isinstance(error, BrokenPipeError):
            return OUTPUT_CLOSED
        sentence, code = verdict(error)
        print(f"dinodex: {sentence}", file=sys.stderr)  # noqa: T201 - this is the terminal
        return code
    return 0


def _output_is_closed() -> bool:
    """Say whether nobody reads standard output any more."""
    try:
        poll = select.poll()
        poll.register(sys.__stdout__.fileno() if sys.__stdout__ else 1, 0)
        closed = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError):
        return True
    if closed:
        _forget_output()
    return closed


def _forget_output() -> None:
    """Let what is buffered go nowhere, or the interpreter would try it once more."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
