"""Large JSON against the parser that reads it in one go."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException

from service.api.requests import EmbedBody, PutPointsBody, QueryBatchBody, QueryBody, RequestModel
from service.errors import TooManyItems
from service.http import large_json
from service.http.bodies import decode_base64, parse_json
from service.http.large_json import MAX_VALUES, SLICE_BYTES, find_long_list, parse_large

TEXT = ['"', "\\", "\\\\", '\\"', "[", "]", "{", "}", ",", ":", "ü", "é", "\\u0041", " ", "a"]


# Of processor time, which a busy machine prolongs little; the body below took the loop for 17 ms at a time, and for 52 ms in one go.
LONGEST_TURN_S, TRIES = 0.04, 3


class AnyBody(RequestModel):
    """A list of anything, between two other fields."""

    before: Any = None
    items: list[Any]
    after: Any = None


def value(rng: random.Random, depth: int = 0) -> Any:  # noqa: ANN401 - JSON
    kind = rng.randrange(4 if depth > 3 else 6)
    if kind == 4:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 5:
        return {f"{index}{rng.choice(TEXT)}": value(rng, depth + 1) for index in range(rng.randrange(4))}
    return [rng.random(), rng.randrange(-9, 9), None, "".join(rng.choices(TEXT, k=rng.randrange(12)))][kind]


def test_s21_large_json_is_what_the_whole_parser_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With windows so small that every cut there can be is made, of texts as they are and with one byte changed."""
    rng = random.Random(0)
    cut = 0
    for _ in range(600):
        monkeypatch.setattr(large_json, "SLICE_BYTES", rng.randrange(1, 40))
        whole = {"before": value(rng), "items": [value(rng) for _ in range(rng.randrange(1, 9))], "after": value(rng)}
        text = bytearray(json.dumps(whole, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1])).encode())
        if rng.random() < 0.5:
            text[rng.randrange(len(text))] = rng.choice(b'"\\[]{},:0 ')
        try:
            expected = AnyBody.model_validate(from_json(bytes(text)))
        except ValueError:
            with pytest.raises(ValueError):  # any of its kinds is answered 400 or 422
                asyncio.run(parse_large(bytes(text), AnyBody, 100))
            continue
        try:
            found = asyncio.run(parse_large(bytes(text), AnyBody, 100))
        except ValueError as error:
            assert "twice" in str(error)  # noqa: PT017 - the changed byte has made two keys alike
            continue
        assert found == expected
        long = asyncio.run(find_long_list(bytes(text)))
        cut += long is not None and len(long.commas) > 0
    assert cut > 80


def test_s21_a_wrong_item_far_behind_is_named_by_its_place() -> None:
    points: list[dict[str, object]] = [{"id": f"p{index}", "vector": [0.5] * 50} for index in range(2000)]
    points[1500]["label"] = 1
    with pytest.raises(RequestValidationError) as caught:
        asyncio.run(parse_json(json.dumps({"points": points}).encode(), PutPointsBody))
    [error] = caught.value.errors()
    assert error["loc"] == ("body", "points", 1500, "label")


def test_s21_more_items_than_are_taken_are_not_parsed_to_their_end() -> None:
    text = json.dumps({"queries": [{"id": "x"}] * 10_000}).encode()
    assert len(text) > SLICE_BYTES
    assert len(asyncio.run(parse_json(text, QueryBatchBody, 10_000)).queries) == 10_000
    with pytest.raises(TooManyItems, match="9,999"):
        asyncio.run(parse_json(text, QueryBatchBody, 9_999))


@pytest.mark.parametrize("beyond", [0, 1])
def test_s21_one_item_of_more_values_than_anything_has_is_413(beyond: int) -> None:
    numbers = "0," * (MAX_VALUES - 4 + beyond) + "0"  # and the brackets of the point and of the two lists around it
    text = f'{{"points":[{{"id":"a","vector":[{numbers}]}}]}}'.encode()
    try:
        point = asyncio.run(parse_json(text, PutPointsBody)).points[0]
    except HTTPException as error:
        assert (error.status_code, beyond) == (413, 1)  # noqa: PT017
    else:
        assert beyond == 0
        assert point.vector is not None


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (EmbedBody, b'{"images":["' + b"A" * 2**20 + b'"]}'),
        (EmbedBody, b'{"images":["' + b"\\\\" * 2**20 + b'"]}'),
        (QueryBody, b'{"vector":[' + b"1," * 100_000 + b"1]}"),
        (QueryBody, b'{"id":"' + b"x" * 2**20 + b'"}'),
        (QueryBody, b'{"id":"x","filter":{"must":[{"ids":[' + b'"a",' * 100_000 + b'"a"]}]}}'),
    ],
    ids=["a string", "backslashes", "numbers", "no list", "a list further in"],
)
def test_s21_what_has_no_list_to_cut_is_read_too(model: type[RequestModel], text: bytes) -> None:
    assert asyncio.run(parse_json(text, model)) == model.model_validate(from_json(text))


async def longest_turn_s(work: Coroutine[Any, Any, object]) -> float:
    """Return the longest that somebody else on the loop waited while `work` computed."""
    working, longest, before = asyncio.ensure_future(work), 0.0, time.thread_time()
    while not working.done():
        await asyncio.sleep(0)
        now = time.thread_time()
        longest, before = max(longest, now - before), now
    await working
    return longest


def test_s21_an_image_of_20_mib_in_base64_is_read_in_many_turns() -> None:
    data = bytes(range(256)) * (20 * 2**12)
    body = b'{"images":["' + base64.b64encode(data) + b'"]}'

    async def read() -> None:
        assert await decode_base64((await parse_json(body, EmbedBody)).images[0]) == data

    assert min(asyncio.run(longest_turn_s(read())) for _ in range(TRIES)) < LONGEST_TURN_S


@pytest.mark.parametrize("line", ["\\n", "\\r\\n"])
def test_u20_an_image_of_20_mib_in_lines_is_read_in_many_turns(line: str) -> None:
    data = bytes(range(256)) * (20 * 2**12)
    text = base64.b64encode(data).decode()
    lines = line.join(text[start : start + 76] for start in range(0, len(text), 76)).encode()
    body = b'{"images":["' + lines + b'"]}'

    async def read() -> None:
        assert await decode_base64((await parse_json(body, EmbedBody)).images[0]) == data

    assert min(asyncio.run(longest_turn_s(read())) for _ in range(TRIES)) < LONGEST_TURN_S
