from typing import Any

import pytest

from service.errors import FilterInvalid
from service.store.filters import parse_filter


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        "x",
        {"most": []},
        {"must": {}},
        {"must": None},
        {"must": ["x"]},
        {"must": [{}]},
        {"must": [{"key": "a"}]},
        {"must": [{"match": {"value": 1}}]},
        {"must": [{"key": 1, "match": {"value": 1}}]},
        {"must": [{"key": "a", "match": 1}]},
        {"must": [{"key": "a", "match": {}}]},
        {"must": [{"key": "a", "match": {"value": None}}]},
        {"must": [{"key": "a", "match": {"value": [1]}}]},
        {"must": [{"key": "a", "match": {"value": {"b": 1}}}]},
        {"must": [{"key": "a", "match": {"any": "abc"}}]},
        {"must": [{"key": "a", "match": {"value": 1, "any": [1]}}]},
        {"must": [{"key": "a", "match": {"value": "\ud800"}}]},
        {"must": [{"key": "a\0", "match": {"value": 1}}]},
        {"must": [{"key": "a", "match": {"value": float("nan")}}]},
        {"must": [{"key": "a", "range": {}}]},
        {"must": [{"key": "a", "range": {"gt": "5"}}]},
        {"must": [{"key": "a", "range": {"gt": True}}]},
        {"must": [{"key": "a", "range": {"gt": "2024-02-30"}}]},
        {"must": [{"key": "a", "range": {"gt": "2024-01-01", "lt": 5}}]},
        {"must": [{"key": "a", "range": {"gt": 5, "lt": "2024-01-01"}}]},
        {"must": [{"key": "a", "range": {"gt": "yesterday"}}]},
        {"must": [{"key": "a", "range": {"gt": None}}]},
        {"must": [{"key": "a", "range": {"above": 5}}]},
        {"must": [{"key": "a", "range": {"gt": 10**400}}]},
        {"must": [{"key": "a", "match": {"value": 1}, "range": {"gt": 1}}]},
        {"must": [{"exists": 1}]},
        {"must": [{"exists": "a", "key": "a"}]},
        {"must": [{"ids": "abc"}]},
        {"must": [{"ids": [1]}]},
        {"must": [{"ids": ["a"] * 10_001}]},
        {"must": [{"exists": "x" * 4097}]},
    ],
)
def test_what_is_not_in_the_language_is_refused(bad: object) -> None:
    with pytest.raises(FilterInvalid):
        parse_filter(bad)


def deep(levels: int) -> dict[str, Any]:
    return {"must": [deep(levels - 1)] if levels > 1 else []}


def test_filters_nest_8_deep_and_no_deeper() -> None:
    assert parse_filter(deep(8)).must
    for levels in (9, 100, 500):
        with pytest.raises(FilterInvalid):
            parse_filter(deep(levels))


def test_a_filter_has_up_to_128_conditions() -> None:
    exists = {"exists": "year"}
    assert len(parse_filter({"must": [exists] * 64, "should": [exists] * 64}).should) == 64
    with pytest.raises(FilterInvalid):
        parse_filter({"must": [exists] * 64, "should": [exists] * 65})
