"""Tables as they come out of a process of their own, for what they look like depends on where its output goes."""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios

import pytest

from dinodex.table import shown

LONG = [f"2023/07-seaside/originals/IMG_20230714_burst_sequence_of_the_old_harbour_{i:04d}_cover.jpg" for i in (1, 2)]
PRINT = "import json, sys; from dinodex.table import print_table; print_table(['id', 'score', 'label'], json.loads(sys.argv[1]))"


def rows_of(*ids: object) -> list[list[object]]:
    return [[id_, 0.9, "bears"] for id_ in ids]


def piped(rows: list[list[object]], encoding: str = "utf-8", **environment: str) -> str:
    """Print a table into a pipe."""
    done = subprocess.run(
        [sys.executable, "-c", PRINT, json.dumps(rows)],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, **environment},
    )
    return done.stdout.decode(encoding)


def on_terminal(rows: list[list[object]]) -> str:
    """Print a table on a terminal of 80 columns."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    environment.pop("COLUMNS", None)
    command = [sys.executable, "-c", PRINT, json.dumps(rows)]
    child = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    text = b""
    while True:
        try:
            part = os.read(master, 65_536)
        except OSError:  # the other end is closed
            part = b""
        if not part:
            break
        text += part
    os.close(master)
    assert child.wait() == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", text.decode("utf-8").replace("\r\n", "\n"))  # without bold letters


def unfolded(table: str, column: int = 0) -> str:
    """Return the text of a column, its lines put together."""
    return "".join(line.split("│")[1 + column].strip() for line in table.splitlines() if line.count("│") == 4)


@pytest.mark.parametrize("environment", [{}, {"COLUMNS": "40"}, {"FORCE_COLOR": "1", "TERM": "dumb"}], ids=str)
def test_u21_a_pipe_gets_whole_ids(environment: dict[str, str]) -> None:
    table = piped(rows_of(*LONG, "x" * 512), **environment)
    for id_ in (*LONG, "x" * 512):
        assert f" {id_} " in table


def test_u21_a_terminal_folds_what_does_not_fit() -> None:
    table = on_terminal(rows_of(*LONG))
    assert "…" not in table
    assert all(len(line) <= 80 for line in table.splitlines())
    assert unfolded(table) == "".join(LONG)
    assert table.count("0.9000") == 2


def test_u21_ids_of_a_group_stand_whole_in_lines_of_their_own() -> None:
    table = piped([[LONG, 0.9, 2]])
    assert [line.split("│")[1].strip() for line in table.splitlines() if "harbour" in line] == LONG


@pytest.mark.parametrize(("encoding", "letter"), [("ascii", r"\xfc"), ("latin-1", "ü"), ("cp1252", "ü")])
def test_u21_a_terminal_without_the_letters_is_no_traceback(encoding: str, letter: str) -> None:
    table = piped(rows_of("日本/ü.jpg", "日本/ö.jpg"), encoding)
    assert rf"\u65e5\u672c/{letter}.jpg" in table


def test_u21_markup_is_shown_as_it_is_and_what_would_act_on_the_terminal_by_its_number() -> None:
    table = piped(rows_of("[bold]a[/bold].jpg", ":smile:", "a\x1b[31m", "gpj.\u202eexe", "line\nbreak"))
    for text in ("[bold]a[/bold].jpg", ":smile:", r"a\x1b[31m", r"gpj.\u202eexe", r"line\x0abreak"):
        assert f" {text} " in table
    assert "\x1b" not in table


def test_u21_different_texts_look_different() -> None:
    ids = ["a", "a\u200b", r"a\u200b", "a\\", "a\\\u200b", r"a\\u200b", "\u2066a", "a\u00ad"]
    assert len({shown(id_) for id_ in ids}) == len(ids)
    assert shown("C:\\photos\\ü.jpg") == "C:\\photos\\ü.jpg"
    assert all(re.fullmatch(r"[\x20-\x7e]*", shown(id_, "ascii")) for id_ in [*ids, "ü", "日本"])


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_u21_json_can_be_read_whatever_the_letters_of_the_output(encoding: str) -> None:
    text = "日本/ü.jpg"
    done = subprocess.run(
        [sys.executable, "-c", "from dinodex.table import print_json; print_json(['日本/ü.jpg'])"],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"},
    )
    assert json.loads(done.stdout.decode(encoding)) == [text]
