"""A process that opens a library without HTTP or torch, writes to it and says each write that was acknowledged.

`python -m faults.library.writer load`: waits for a line with the directory and the number of each thread's next write, then writes
until it is killed.

`python -m faults.library.writer session DIRECTORY WRITES`: writes one after the other, closes and opens the library halfway, and tries
again after a write that was refused. Exits with 74 where the library cannot be opened.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from faults.library.history import do, opened
from faults.library.small import small

from backbone.errors import BackboneError
from service.errors import Storage
from service.library.library import Collection, Library

LIMIT_S = 300  # nobody waits for a child that was forgotten
TRIES = 4  # refused writes, after which a session ends


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # one call, so that lines of several threads do not mix


def load() -> None:
    say("ready")
    directory, *numbers = sys.stdin.readline().split()
    collection = opened(Library.open(Path(directory), threads=1))

    def write(thread: int, number: int) -> None:
        while True:
            do(collection, thread, number)
            say(f"{thread} {number}")
            number += 1

    say("open")
    for thread, number in enumerate(map(int, numbers)):
        threading.Thread(target=write, args=(thread, number), daemon=True).start()
    threading.Event().wait(LIMIT_S)


def session(directory: Path, writes: int) -> None:
    number = 0
    for stop in (writes // 2, writes):
        try:
            library = Library.open(directory, threads=1)
            collection = opened(library)
        except (Storage, BackboneError) as error:
            say(f"refused open {type(error).__name__}")
            sys.exit(74)
        refused = 0
        while number < stop and refused < TRIES:
            acknowledged = attempt(collection, number)
            number += acknowledged
            refused += not acknowledged
        say(f"writable {int(library.writable)}")
        library.close()
        if number < stop:
            return


def attempt(collection: Collection, number: int) -> bool:
    try:
        do(collection, 0, number)
    except Storage as error:
        say(f"refused {number} {type(error).__name__}")
        return False
    say(f"0 {number}")
    return True


if __name__ == "__main__":
    assert "torch" not in sys.modules
    assert "fastapi" not in sys.modules
    with small():
        if sys.argv[1] == "load":
            load()
        else:
            session(Path(sys.argv[2]), int(sys.argv[3]))
