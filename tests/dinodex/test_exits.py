"""Whatever is raised has a sentence and an exit code that tells its kind."""

from __future__ import annotations

import errno
import re
import sqlite3
from pathlib import Path

import httpx
import pydantic
import pytest
import torch

from backbone.errors import DirectoryLocked
from dinodex import exits
from dinodex.exits import BAD_DATA, CONFIG, INTERNAL, IO, LOCKED, verdict

CASES = [
    (MemoryError(), IO, "memory ran out"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), IO, "smaller batch_size"),
    (OSError(errno.ENOSPC, "No space left on device", "/data/x"), IO, "/data/x: No space left on device; make room"),
    (PermissionError(errno.EACCES, "Permission denied", "/data/x"), IO, "permissions"),
    (OSError(errno.EMFILE, "Too many open files"), IO, "ulimit -n"),
    (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), IO, "a connection ended"),
    (httpx.ConnectError("All connection attempts failed"), IO, "did not answer"),
    (httpx.InvalidURL("Invalid port: 'x'"), CONFIG, "http://HOST:PORT"),
    (UnicodeEncodeError("utf-8", "caf\udce9", 3, 4, "surrogates not allowed"), BAD_DATA, "UTF-8"),
    (RecursionError("maximum recursion depth exceeded"), BAD_DATA, "nested"),
    (ModuleNotFoundError("No module named 'faiss'", name="faiss"), CONFIG, r"pip install 'dinodex\[serve\]'"),
    (ImportError("libGL.so.1: cannot open shared object file"), CONFIG, "libGL"),
    (ValueError("first line\nsecond line"), INTERNAL, "ValueError: first line; run it again as `dinodex --debug"),
    (KeyError("x" * 10_000), INTERNAL, "mistake in dinodex"),
    (AssertionError(), INTERNAL, "AssertionError; run"),
    (DirectoryLocked("RUN is in use"), LOCKED, "^RUN is in use$"),
    (ExceptionGroup("tasks", [ExceptionGroup("more", [MemoryError()])]), IO, "memory ran out"),
]


@pytest.mark.parametrize(("error", "code", "says"), CASES, ids=lambda value: type(value).__name__)
def test_u14_each_kind_of_error_has_one_sentence_and_an_exit_code(error: BaseException, code: int, says: str) -> None:
    sentence, given = verdict(error)
    assert given == code
    assert re.search(says, sentence)
    assert "\n" not in sentence
    assert len(sentence) < 400


def test_u14_a_database_that_is_locked_damaged_or_out_of_reach_are_three_things(tmp_path: Path) -> None:
    (tmp_path / "damaged").write_bytes(b"not a database at all" * 100)
    holder = sqlite3.connect(tmp_path / "held", isolation_level=None)
    holder.execute("create table t (x)")
    holder.execute("begin exclusive")
    for name, code in (("held", LOCKED), ("damaged", BAD_DATA), ("no/folder", IO)):
        with pytest.raises(sqlite3.Error) as caught:
            _select(tmp_path / name)
        assert verdict(caught.value).code == code, name
    holder.close()


def _select(path: Path) -> None:
    connection = sqlite3.connect(path, timeout=0)
    try:
        connection.execute("select * from t").fetchall()
    finally:
        connection.close()


def test_u14_an_object_of_another_shape_names_the_place() -> None:
    class Point(pydantic.BaseModel):
        id: str

    with pytest.raises(pydantic.ValidationError) as caught:
        Point.model_validate({})
    assert verdict(caught.value) == ("Point is not as expected, id: Field required; correct it.", BAD_DATA)


def test_u14_every_exit_code_stands_in_the_readme() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for code in (exits.INTERNAL, exits.INTERRUPTED, exits.OUTPUT_CLOSED):
        assert re.search(rf"\b{code}\b", text)
