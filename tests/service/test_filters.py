import json
import operator
import sqlite3
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import FilterInvalid
from service.filters import Exists, Filter, Ids, Match, Range, Scalar, compile_filter, parse_filter
from service.payloads import encode_payload

Doc = tuple[str, str | None, dict[str, Any] | None]


def selected(filter_json: object, docs: list[Doc]) -> list[str]:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE points (id TEXT, label TEXT, payload TEXT)")
    connection.executemany("INSERT INTO points VALUES (?, ?, ?)", [(i, la, encode_payload(p)) for i, la, p in docs])
    sql, parameters = compile_filter(parse_filter(filter_json))
    found = [i for (i,) in connection.execute(f"SELECT id FROM points AS p WHERE {sql} ORDER BY rowid", parameters)]
    connection.close()
    return found


DOCS: list[Doc] = [
    ("a", "cat", {"year": 1990, "tags": ["x", "y"], "ok": True}),
    ("b", "dog", {"year": 2000.5, "tags": [], "ok": False}),
    ("c", None, {"year": "1990", "ok": 1, "nothing": None}),
    ("d", "cat", None),
    ("e", None, {"label": "cat", "we.ird \"key'": 1, "tags": [1, None, [2]]}),
]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "abcde"),
        ({"must": [], "should": [], "must_not": []}, "abcde"),
        ({"must": [{"key": "label", "match": {"value": "cat"}}]}, "ad"),
        ({"must_not": [{"key": "label", "match": {"value": "cat"}}]}, "bce"),
        ({"must": [{"key": "label", "match": {"any": ["cat", "dog"]}}]}, "abd"),
        ({"must": [{"key": "label", "match": {"any": []}}]}, ""),
        ({"must": [{"key": "label", "match": {"value": 5}}]}, ""),
        ({"must": [{"key": "label", "range": {"gt": 5}}]}, ""),
        ({"must": [{"exists": "label"}]}, "abd"),
        ({"must": [{"key": "year", "match": {"value": 1990}}]}, "a"),
        ({"must": [{"key": "year", "match": {"value": 1990.0}}]}, "a"),
        ({"must": [{"key": "year", "match": {"value": "1990"}}]}, "c"),
        ({"must": [{"key": "year", "range": {"gte": 1990, "lt": 2001}}]}, "ab"),
        ({"must": [{"key": "year", "range": {"gt": 1990}}]}, "b"),
        ({"must": [{"key": "year", "range": {"lte": 10**400 // 10**100}}]}, "ab"),
        ({"must_not": [{"key": "year", "range": {"gt": -(2**70)}}]}, "cde"),
        ({"must": [{"key": "ok", "match": {"value": True}}]}, "a"),
        ({"must": [{"key": "ok", "match": {"value": 1}}]}, "c"),
        ({"must": [{"key": "ok", "match": {"any": [False, 1]}}]}, "bc"),
        ({"must": [{"key": "tags", "match": {"value": "x"}}]}, "a"),
        ({"must": [{"key": "tags", "range": {"gte": 1}}]}, "e"),
        ({"must": [{"exists": "tags"}]}, "abe"),
        ({"must": [{"exists": "nothing"}]}, ""),
        ({"must": [{"exists": "unknown"}]}, ""),
        ({"must": [{"exists": "we.ird \"key'"}]}, "e"),
        ({"must": [{"ids": ["a", "e", "zz", "\"'"]}]}, "ae"),
        ({"must": [{"ids": []}]}, ""),
        ({"should": [{"ids": ["a"]}, {"exists": "nothing"}, {"key": "ok", "match": {"value": 1}}]}, "ac"),
        ({"must": [{"exists": "year"}], "should": [{"ids": ["a", "d"]}], "must_not": [{"ids": ["b"]}]}, "a"),
        ({"must": [{"should": [{"ids": ["a"]}, {"must_not": [{"exists": "year"}]}]}]}, "ade"),
    ],
)
def test_a_filter_selects_what_it_says(asked: object, expected: str) -> None:
    assert "".join(selected(asked, DOCS)) == expected


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
    assert selected(deep(8), DOCS) == list("abcde")
    for levels in (9, 100, 500):
        with pytest.raises(FilterInvalid):
            parse_filter(deep(levels))


def test_a_filter_has_up_to_128_conditions() -> None:
    exists = {"exists": "year"}
    assert selected({"must": [exists] * 64, "should": [exists] * 64}, DOCS) == list("abc")
    with pytest.raises(FilterInvalid):
        parse_filter({"must": [exists] * 64, "should": [exists] * 65})


def test_a_value_never_becomes_sql() -> None:
    hostile = "x' OR 1=1; DROP TABLE points; --"
    for condition in (Match(hostile, (hostile,)), Exists(hostile), Ids((hostile,)), Range(hostile, ((">", 1),))):
        sql, _ = compile_filter(Filter(must=(condition,)))
        assert "DROP" not in sql


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3)
keys = st.sampled_from(["a", 'b"', "c.d", "é\n", "label"])
numbers = st.integers(-3, 3) | st.sampled_from([0.5, 2.0, 2**53 + 1, float(2**53), 2**63, 2**64 + 1])
scalars = text | numbers | st.booleans()
payloads = st.none() | st.dictionaries(
    keys, st.none() | scalars | st.lists(st.none() | scalars, max_size=3), max_size=4
)
docs = st.lists(st.tuples(st.none() | st.sampled_from(["x", "y"]), payloads), max_size=6)
conditions = st.one_of(
    st.builds(lambda k, v: {"key": k, "match": {"value": v}}, keys, scalars),
    st.builds(lambda k, v: {"key": k, "match": {"any": v}}, keys, st.lists(scalars, max_size=3)),
    st.builds(
        lambda k, v: {"key": k, "range": v},
        keys,
        st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), numbers, min_size=1),
    ),
    st.builds(lambda k: {"exists": k}, keys),
    st.builds(lambda v: {"ids": v}, st.lists(st.sampled_from(["0", "1", "5"]))),
)
filters = st.recursive(
    conditions,
    lambda inner: st.dictionaries(
        st.sampled_from(["must", "should", "must_not"]), st.lists(inner, max_size=3), min_size=1
    ),
    max_leaves=6,
)


def kind(value: object) -> str:
    return "text" if isinstance(value, str) else "bool" if isinstance(value, bool) else "number"


def as_stored(value: Scalar) -> Scalar:
    """SQLite reads integers beyond 64 bits as doubles."""
    return float(value) if isinstance(value, int) and not -(2**63) <= value < 2**63 else value


def holds(condition: dict[str, Any], id_: str, label: str | None, payload: dict[str, Any] | None) -> bool:
    def check(inner: dict[str, Any]) -> bool:
        return holds(inner, id_, label, payload)

    if condition.keys() & {"must", "should", "must_not"}:
        should = condition.get("should", [])
        return (
            all(map(check, condition.get("must", [])))
            and (not should or any(map(check, should)))
            and not any(map(check, condition.get("must_not", [])))
        )
    if "ids" in condition:
        return id_ in condition["ids"]
    key = condition["exists"] if "exists" in condition else condition["key"]
    value = label if key == "label" else (payload or {}).get(key)
    if "exists" in condition:
        return value is not None
    items = [as_stored(v) for v in [*(value if isinstance(value, list) else [value])] if v is not None]
    if "range" in condition:
        signs = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}
        return any(
            kind(v) == "number" and all(signs[s](v, as_stored(b)) for s, b in condition["range"].items()) for v in items
        )
    match = condition["match"]
    wanted = [as_stored(w) for w in match.get("any", [match.get("value")])]
    return any(kind(v) == kind(w) and v == w for v in items for w in wanted)


@settings(max_examples=300, deadline=None)
@given(filters, docs)
def test_sql_selects_what_python_would(condition: dict[str, Any], found: list[tuple[str | None, Any]]) -> None:
    asked = condition if condition.keys() & {"must", "should", "must_not"} else {"must": [condition]}
    numbered = [(str(i), label, payload) for i, (label, payload) in enumerate(found)]
    stored = [(i, la, None if p is None else json.loads(encode_payload(p) or "")) for i, la, p in numbered]
    assert selected(asked, numbered) == [i for i, la, p in stored if holds(condition, i, la, p)]
