from __future__ import annotations

import io
import json

import pytest

from dinodex.any_text import ESCAPED, show_any_text

TEXT = "caf\udce9 \u00e9 \U0001f600"  # a byte that is not UTF-8, and what ASCII does not have


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_u13_a_stream_of_any_encoding_takes_any_text_and_json_reads_it_back(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    show_any_text(stream)
    json.dump({"id": TEXT}, stream, ensure_ascii=False)
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    assert json.loads(stream.buffer.getvalue().decode(encoding)) == {"id": TEXT}


def test_u13_text_that_the_encoding_has_is_written_as_it_is() -> None:
    assert "caf\u00e9".encode("latin-1", ESCAPED) == b"caf\xe9"


def test_u13_a_stream_that_escapes_in_its_own_way_is_left_alone_and_none_is_no_stream() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogateescape")
    show_any_text(stream)
    assert stream.errors == "surrogateescape"
    show_any_text(None)
