"""Filters at random, and what they select, worked out without SQL."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

Payload = dict[str, Any] | None
Test = Callable[[str, str | None, Payload], bool]  # of a point's id, label and payload

LABELS = (None, "cat", "dog", "0")
PAYLOADS: tuple[Payload, ...] = (
    None,
    {},
    {"n": 1, "tags": ["x", 2, None]},
    {"n": 2.5, "ok": True, "tags": []},
    {"n": "1", "ok": False, "label": "cat"},
    {"n": None, "ok": 1, "tags": "x"},
    {"n": -3, "tags": [[2], "y", True]},
)
KEYS = ("n", "ok", "tags", "label", "absent")
VALUES = ("x", "cat", "1", "", 1, 2, 2.5, -3, True, False)
COMPARE: dict[str, Callable[[float, float], bool]] = {
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
}


def question(draw: Random, ids: tuple[str, ...], depth: int = 2) -> tuple[dict[str, Any], Test]:
    """Draw a filter: as JSON, and as a function."""
    asked: dict[str, Any] = {}
    tests: dict[str, list[Test]] = {"must": [], "should": [], "must_not": []}
    for name in draw.sample(sorted(tests), draw.randint(0, 2)):
        drawn = [_condition(draw, ids, depth) for _ in range(draw.randint(1, 2))]
        asked[name], tests[name] = [json for json, _ in drawn], [test for _, test in drawn]

    def holds(*point: Any) -> bool:  # noqa: ANN401 - a Test
        return (
            all(test(*point) for test in tests["must"])
            and (not tests["should"] or any(test(*point) for test in tests["should"]))
            and not any(test(*point) for test in tests["must_not"])
        )

    return asked, holds


def _condition(draw: Random, ids: tuple[str, ...], depth: int) -> tuple[dict[str, Any], Test]:
    key = draw.choice(KEYS)
    match draw.choice(["match", "any", "range", "exists", "ids"] + ["filter"] * (depth > 0)):
        case "filter":
            asked, test = question(draw, ids, depth - 1)
            return (asked, test) if asked else ({"must": []}, test)
        case "ids":
            chosen = draw.sample(ids, draw.randint(0, min(5, len(ids))))
            return {"ids": chosen}, lambda i, _, __: i in chosen
        case "exists":
            return {"exists": key}, lambda *p: _field(key, *p) is not None
        case "range":
            name, bound = draw.choice(sorted(COMPARE)), draw.choice([-3, 0, 1, 2, 2.5])
            return {"key": key, "range": {name: bound}}, _any_item(
                key, lambda v: _kind(v) == "number" and COMPARE[name](v, bound)
            )
        case "match":
            value = draw.choice(VALUES)
            return {"key": key, "match": {"value": value}}, _any_item(key, lambda v: _same(v, value))
        case _:
            values = draw.sample(VALUES, draw.randint(0, 3))
            return {"key": key, "match": {"any": values}}, _any_item(key, lambda v: any(_same(v, w) for w in values))


def _field(key: str, _: str, label: str | None, payload: Payload) -> Any:  # noqa: ANN401 - any JSON
    return label if key == "label" else (payload or {}).get(key)


def _any_item(key: str, test: Callable[[Any], bool]) -> Test:
    def holds(*point: Any) -> bool:  # noqa: ANN401 - a Test
        value = _field(key, *point)
        return any(test(item) for item in value) if isinstance(value, list) else test(value)

    return holds


def _same(a: Any, b: Any) -> bool:  # noqa: ANN401 - any JSON
    return _kind(a) == _kind(b) != "other" and a == b


def _kind(value: Any) -> str:  # noqa: ANN401 - any JSON
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number" if isinstance(value, int | float) else "other"
