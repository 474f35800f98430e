from typing import Any

import pytest

from service.store.filters import parse_filter
from service.store.tautologies import is_tautology

CAT = {"key": "label", "match": {"value": "cat"}}
NO_LABEL = {"key": "label", "match": {"any": []}}


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"must": []},
        {"should": []},
        {"must_not": []},
        {"must": [], "should": [], "must_not": []},
        {"must": [{"must": []}]},
        {"must": [{"should": [{"must_not": []}]}]},
        {"should": [CAT, {"must": []}]},
        {"must_not": [NO_LABEL]},
        {"must_not": [{"ids": []}]},
        {"must_not": [{"ids": []}, NO_LABEL]},
        {"must_not": [{"key": "label", "match": {"value": 5}}]},
        {"must_not": [{"key": "label", "range": {"gt": 5}}]},
        {"must_not": [{"key": "year", "range": {"gt": 5, "lt": 3}}]},
        {"must_not": [{"key": "year", "range": {"gte": 5, "lt": 5}}]},
        {"must_not": [{"key": "taken", "range": {"gt": "2024-01-02", "lt": "2024-01-01T23:00:00Z"}}]},
        {"must_not": [{"must": [CAT, {"ids": []}]}]},
        {"must_not": [{"should": [{"ids": []}, NO_LABEL]}]},
        {"must_not": [{"must_not": [{"must": []}]}]},
    ],
)
def test_u05_a_filter_that_can_leave_no_point_out_is_a_tautology(asked: dict[str, Any]) -> None:
    assert is_tautology(parse_filter(asked))


@pytest.mark.parametrize(
    "asked",
    [
        {"must": [CAT]},
        {"should": [CAT]},
        {"should": [CAT], "must": []},
        {"must_not": [CAT]},
        {"must_not": [CAT, NO_LABEL]},
        {"must": [NO_LABEL]},  # selects none
        {"must": [{"ids": []}]},
        {"must_not": [{"must": []}]},  # selects none either
        {"must_not": [{"key": "year", "range": {"gte": 5, "lte": 5}}]},
        {"must_not": [{"key": "year", "range": {"gt": 5}}]},
        {"must_not": [{"should": [CAT, {"ids": []}]}]},
        {"must_not": [{"must": [CAT]}]},
        {"must": [{"exists": "label"}]},
        {"must": [{"key": "year", "range": {"gt": 5, "lt": 3}}]},
    ],
)
def test_one_that_can_is_none(asked: dict[str, Any]) -> None:
    assert not is_tautology(parse_filter(asked))
