"""What `dinodex` says: the help of every command, and what commands print beside a running service."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import typer
from bodies import png
from service_process import ARTIFACT, settled

from dinodex.cli import app, main


def run(*words: str) -> tuple[int, str, str]:
    """Run a command in this process; its exit code, and what it printed to standard output and error."""
    out, said, code = io.StringIO(), io.StringIO(), 0
    before, sys.argv = sys.argv, ["dinodex", *words]
    try:
        with redirect_stdout(out), redirect_stderr(said):
            main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = before
    return code, out.getvalue(), said.getvalue()


def helps() -> str:
    """Return the help of every command and every group of them."""
    os.environ.update(COLUMNS="80", TERM="dumb", NO_COLOR="1")
    return "\n".join(f"### {' '.join(('dinodex', *words))}\n{run(*words, '--help')[1]}" for words in _commands())


def _commands(command: object = None, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    command = command or typer.main.get_command(app)
    yield words
    for name, part in getattr(command, "commands", {}).items():
        yield from _commands(part, (*words, name))


def beside(url: str, data: Path) -> str:
    """Return what commands print that ask a service, or work in a data directory."""
    image = data.with_name("image.png")
    image.write_bytes(png(4))
    photos = data.with_name("photos")  # of its own: what a listing leaves out of the folder above varies
    photos.mkdir()
    (photos / image.name).write_bytes(png(4))
    at = ("--url", url, "--api-key", "write-key")
    c = ("--collection", "c")
    local = ("--data", str(data))
    found = []
    for words in (
        ("collections", "list", *at),
        ("collections", "list", *at, "--json"),
        ("collections", "show", "c", *at),
        ("collections", "show", "none", *at),
        ("collections", "create", "new", "--keep", "none", *at),
        ("collections", "create", "new", "--keep", "all", *at),
        ("collections", "delete", "new", "--yes", *at),
        ("collections", "evaluate", "c", "--k", "1", "--k", "3", *at),
        ("collections", "label-issues", "c", "--k", "3", "--limit", "2", *at),
        ("search", str(image), *c, "--limit", "2", *at),
        ("search", str(image), *c, "--limit", "1", "--json", *at),
        ("search", str(image), *c, *at[:2], "--api-key", "wrong"),
        ("search", "missing.png", *c, *at),
        ("search", str(image), *c, "--url", "http://127.0.0.1:1"),
        ("classify", str(image), *c, "--k", "2", "--json", *at),
        ("cluster", *c, "--k", "3", *at),
        ("cluster", *c, "--k", "x", *at),
        ("duplicates", *c, "--threshold", "0.97", *at),
        ("outliers", *c, "--k", "3", "--limit", "2", *at),
        ("keys", "list", *local),
        ("keys", "add", "reader", *local),
        ("keys", "add", "x", "--scope", "all", *local),
        ("keys", "revoke", "none", *local),
        ("index", str(photos), *c, "--artifact", str(ARTIFACT), *local),
        ("index", "missing", *c, "--artifact", str(ARTIFACT), *local),
        ("index", "missing", *c),
        ("serve", "--artifact", str(ARTIFACT), *local),
        ("serve", "--artifact", str(ARTIFACT)),
        ("backup", *local, "--out", str(image.with_name("backup.sqlite3"))),
        ("restore", "missing", *local),
        ("nothing",),
    ):
        code, out, said = run(*words)
        found.append(f"### {' '.join(('dinodex', *words))}\n{code}\n{out}{said}")
    return _nowhere("\n".join(found), url, data)


def _nowhere(text: str, url: str, data: Path) -> str:
    """Return a text without where it was said, and without what changes by itself."""
    for place, name in ((url, "URL"), (str(data.parent), "DIR"), (str(ARTIFACT.parent), "HERE")):
        text = text.replace(place, name)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "<day>", text)
    return settled(re.sub(r"[\d.]+ MB, sha256 [0-9a-f]{64}", "<size and sum>", text))
