"""The inverted index of filters beside two oracles: the rules in plain Python, and SQLite reading every payload anew."""

import operator
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import LibraryInvalid
from service.points import UNSET
from service.store import filter_index
from service.store.database import Database
from service.store.filters import MAX_TEXT_CHARS, Condition, Exists, Filter, Ids, Match, Range, Scalar, parse_filter
from service.store.migrations import FIELDS, MIGRATIONS, migrate
from service.store.payloads import MAX_PAYLOAD_BYTES, encode_payload
from service.store.purge import start_purge
from service.store.records import Record, Records

Doc = tuple[str, str | None, dict[str, Any] | None]
RECORDS = Records(1, 3)


@contextmanager
def library(docs: list[Doc]) -> Iterator[sqlite3.Connection]:
    """A database in memory, two collections in it, and these points in the first."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    insert = "INSERT INTO collections (name, fingerprint, dimension, keep, created_at) VALUES (?, 'f', 3, 'none', 0)"
    connection.executemany(insert, [("one",), ("two",)])
    # the other collection has the same keys and values, and must not be seen
    for records in (Records(2, 3), RECORDS):
        records.put(connection, [record(*doc) for doc in docs], False)
    yield connection
    connection.close()


def record(id_: str, label: str | None, payload: dict[str, Any] | None, content: bytes = b"") -> Record:
    return Record(id_, content, np.array([1, 0, 0], np.float32), label, encode_payload(payload), None, None)


def ids(connection: sqlite3.Connection, condition: Condition) -> list[str]:
    return sorted(point.id for point in RECORDS.by_rows(connection, RECORDS.matching(connection, condition)).values())


def index_of(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """Everything in the index, with the types of its values."""
    return connection.execute(
        "SELECT collection, name, row, typeof(value), value FROM fields JOIN field_names USING (key) ORDER BY 1, 2, 3, 4, 5"
    ).fetchall()


DOCS: list[Doc] = [
    ("a", "cat", {"year": 1990, "tags": ["x", "y"], "ok": True}),
    ("b", "dog", {"year": 2000.5, "tags": [], "ok": False}),
    ("c", None, {"year": "1990", "ok": 1, "nothing": None}),
    ("d", "cat", None),
    ("e", None, {"label": "cat", "we.ird \"key'": 1, "tags": [1, None, [2], {"x": 3}], "deep": {"year": 1990}}),
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
        ({"must": [{"key": "ok", "range": {"gte": 0}}]}, "c"),
        ({"must": [{"key": "tags", "match": {"value": "x"}}]}, "a"),
        ({"must": [{"key": "tags", "match": {"any": ["x", "y"]}}]}, "a"),
        ({"must": [{"key": "tags", "match": {"value": 2}}]}, ""),
        ({"must": [{"key": "tags", "range": {"gte": 1}}]}, "e"),
        ({"must": [{"exists": "tags"}]}, "abe"),
        ({"must": [{"exists": "deep"}]}, "e"),
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
    with library(DOCS) as connection:
        assert "".join(ids(connection, parse_filter(asked))) == expected


@pytest.mark.parametrize(
    "hostile", ["x' OR 1=1; DROP TABLE points; --", '"', "a\\", "json_each(?)", "$[0]", "%", "é\n"]
)
def test_a_value_is_never_read_as_sql(hostile: str) -> None:
    with library([*DOCS, ("h", hostile, {hostile: hostile})]) as connection:
        for condition in (Match(hostile, (hostile,)), Exists(hostile), Match("label", (hostile,))):
            assert ids(connection, condition) == ["h"]
            assert ids(connection, Filter(must_not=(condition,))) == list("abcde")
        assert ids(connection, Ids((hostile,))) == ids(connection, Range(hostile, ((">", 1),))) == []


@pytest.mark.parametrize(("length", "found"), [(MAX_TEXT_CHARS, ["t"]), (MAX_TEXT_CHARS + 1, [])])
def test_a_text_beyond_what_a_filter_may_say_only_exists(length: int, found: list[str]) -> None:
    with library(
        [("t", None, {"text": "é" * length, "list": ["é" * length]}), ("o", None, {"text": {}, "list": [[]]})]
    ) as c:
        for key in ("text", "list"):
            assert ids(c, Match(key, ("é" * length,))) == found
            assert ids(c, Exists(key)) == ["o", "t"]


def test_the_largest_payload_fills_the_index_with_little_more_than_itself() -> None:
    """A key of thousands of characters stands before each of ten thousand numbers; it is stored once."""
    payload = {"k" * 4000: list(range(10_000))}
    assert len(encode_payload(payload) or "") < MAX_PAYLOAD_BYTES
    with library([]) as connection:
        before = connection.execute("PRAGMA page_count").fetchone()[0]
        RECORDS.put(connection, [record("a", None, payload)], False)
        pages = connection.execute("PRAGMA page_count").fetchone()[0] - before
        assert pages * connection.execute("PRAGMA page_size").fetchone()[0] < 8 * MAX_PAYLOAD_BYTES


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3)
keys = st.sampled_from(["a", 'b"', "c.d", "é\n", "label"])
numbers = st.integers(-3, 3) | st.sampled_from([0.5, 0.1, 2.0, 1e-320, 2**53 + 1, float(2**53), 2**63, 2**64 + 1])
scalars = text | numbers | st.booleans()
nested = st.lists(scalars, max_size=2) | st.dictionaries(keys, scalars, max_size=2)
values = st.none() | scalars | nested | st.lists(st.none() | scalars | nested, max_size=3)
payloads = st.none() | st.dictionaries(keys, values, max_size=4)
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


def as_filter(condition: dict[str, Any]) -> Filter:
    return parse_filter(condition if condition.keys() & {"must", "should", "must_not"} else {"must": [condition]})


def kind(value: object) -> str:
    return "text" if isinstance(value, str) else "bool" if isinstance(value, bool) else "number"


def as_stored(value: Scalar) -> Scalar:
    """SQLite reads integers beyond 64 bits as doubles."""
    return float(value) if isinstance(value, int) and not -(2**63) <= value < 2**63 else value


def holds(condition: dict[str, Any], id_: str, label: str | None, payload: dict[str, Any] | None) -> bool:
    """The rules of the filter language, in plain Python."""

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
    items = [as_stored(v) for v in (value if isinstance(value, list) else [value]) if isinstance(v, Scalar)]
    if "range" in condition:
        signs = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}
        return any(
            kind(v) == "number" and all(signs[s](v, as_stored(b)) for s, b in condition["range"].items()) for v in items
        )
    match = condition["match"]
    wanted = [as_stored(w) for w in match.get("any", [match.get("value")])]
    return any(kind(v) == kind(w) and v == w for v in items for w in wanted)


def scan(connection: sqlite3.Connection, condition: Condition) -> set[str]:
    """Select as SQLite would without an index: each condition reads every payload of the collection."""
    points = "SELECT id FROM points AS p WHERE collection = 1"

    def read(where: str, *parameters: object) -> set[str]:
        return {id_ for (id_,) in connection.execute(f"{points} AND ({where})", parameters)}

    def having(key: str, test: str, *parameters: object) -> set[str]:
        of_list = f"f.type = 'array' AND EXISTS (SELECT 1 FROM json_each(f.value) AS i WHERE {test.replace('$', 'i')})"
        test = f"({test.replace('$', 'f')}) OR ({of_list})"
        where = f"EXISTS (SELECT 1 FROM json_each(p.payload) AS f WHERE f.key = ? AND ({test}))"
        return read(where, key, *parameters, *parameters)

    match condition:
        case Filter(must, should, must_not):
            kept = set.intersection(read("1"), *(scan(connection, c) for c in must))
            if should:
                kept &= set.union(*(scan(connection, c) for c in should))
            return kept.difference(*(scan(connection, c) for c in must_not))
        case Ids(wanted):
            return {id_ for id_ in wanted if read("id = ?", id_)}
        case Exists("label"):
            return read("label IS NOT NULL")
        case Match("label", wanted):
            return set().union(*(read("label = ?", w) for w in wanted if isinstance(w, str)))
        case Range("label"):
            return set()
        case Exists(key):
            return read("EXISTS (SELECT 1 FROM json_each(payload) AS f WHERE f.key = ? AND f.type <> 'null')", key)
        case Match(key, wanted):
            kinds = {"text": "('text')", "number": "('integer', 'real')"}
            found: set[str] = set()
            for w in wanted:
                found |= (
                    having(key, "$.type = ?", str(w).lower())
                    if isinstance(w, bool)
                    else having(key, f"$.type IN {kinds[kind(w)]} AND $.atom = ?", w)
                )
            return found
        case Range(key, bounds):
            test = " AND ".join(f"$.atom {sign} ?" for sign, _ in bounds)
            return having(key, f"$.type IN ('integer', 'real') AND {test}", *(bound for _, bound in bounds))


@settings(max_examples=300, deadline=None)
@given(filters, docs, st.sets(st.integers(0, 14)))
def test_the_index_selects_what_python_and_a_scan_would(
    asked: dict[str, Any], found: list[tuple[str | None, Any]], some: set[int]
) -> None:
    numbered: list[Doc] = [(str(i), label, payload) for i, (label, payload) in enumerate(found)]
    condition = as_filter(asked)
    with library(numbered) as connection:
        expected = [i for i, la, p in numbered if holds(asked, i, la, p)]
        assert ids(connection, condition) == expected
        assert ids(connection, condition) == sorted(scan(connection, condition))
        assert RECORDS.count(connection, condition) == len(expected)
        rows = RECORDS.matching(connection, condition)
        assert rows.tolist() == sorted(set(rows.tolist()))
        among = RECORDS.matching_among(connection, condition, np.array(sorted(some), np.int64))
        assert among.tolist() == sorted(some & set(rows.tolist()))
        pages, after = [], ""
        while page := RECORDS.page(connection, condition, after, 1):
            pages.append(after := page[0].id)
        assert pages == expected


writes = st.lists(
    st.tuples(
        st.sampled_from(["put", "replace", "update", "delete"]), st.sampled_from("012"), st.just(UNSET) | payloads
    ),
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(writes)
def test_the_index_follows_every_write_and_is_what_a_migration_makes(done: list[tuple[str, str, Any]]) -> None:
    with library([]) as connection:
        for number, (what, id_, payload) in enumerate(done):
            encoded = payload if payload is UNSET else encode_payload(payload)
            there = RECORDS.count(connection, Ids((id_,)))
            if what == "delete":
                RECORDS.delete(connection, Ids((id_,)))
            elif what == "update" and there:
                RECORDS.update(connection, id_, UNSET, encoded)
            elif what in ("put", "replace"):
                content = number.to_bytes() if what == "replace" else b""
                new = Record(id_, content, np.array([1, 0, 0], np.float32), UNSET, encoded, None, None)
                RECORDS.put(connection, [new], True)
        written = index_of(connection)
        connection.execute("DROP TABLE fields")
        connection.execute("DROP TABLE field_names")
        for statement in FIELDS:
            connection.execute(statement)
        assert index_of(connection) == written


def test_a_changed_payload_is_found_by_what_it_holds_now() -> None:
    with library([("a", None, {"n": 1, "tags": ["x", "y"]}), ("b", None, {"n": 1})]) as connection:
        RECORDS.put(connection, [record("a", None, {"n": 2, "tags": ["y"]})], False)
        RECORDS.update(connection, "b", UNSET, None)
        assert ids(connection, Match("n", (1,))) == ids(connection, Match("tags", ("x",))) == []
        assert ids(connection, Match("n", (2,))) == ids(connection, Exists("tags")) == ["a"]


def test_a_library_of_before_gets_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    before = MIGRATIONS[: MIGRATIONS.index(FIELDS)]
    monkeypatch.setattr("service.store.migrations.MIGRATIONS", before)
    migrate(connection)
    connection.execute("INSERT INTO collections VALUES (1, 'one', 'f', 3, 'none', 0)")
    insert = "INSERT INTO points (collection, id, content_hash, label, payload) VALUES (1, ?, x'', ?, ?)"
    connection.executemany(insert, [(id_, label, encode_payload(payload)) for id_, label, payload in DOCS])
    monkeypatch.undo()
    migrate(connection)
    assert ids(connection, Match("year", (1990,))) == ["a"]
    assert RECORDS.point(connection, "e").payload == DOCS[4][2]
    with library(DOCS) as fresh:
        written = [(name, *rest) for collection, name, _, *rest in index_of(fresh) if collection == 1]
        assert [(name, *rest) for _, name, _, *rest in index_of(connection)] == written
    connection.close()


def test_many_points_are_listed_and_asked_for_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """On both sides of every limit that decides how a question is answered."""
    monkeypatch.setattr(filter_index, "AMONG_ROWS", 20)
    monkeypatch.setattr("service.store.records.PAGE_BLOCK", 16)
    docs: list[Doc] = [(f"{i:03d}", None, {"n": i, "m": i % 10, "first": i < 30}) for i in range(200)]
    with library(docs) as connection:
        for condition, chosen in {
            Match("m", (3,)): lambda n: n % 10 == 3,
            Match("n", (30, 100, 150)): lambda n: n in (30, 100, 150),
            Match("m", (3, 4)): lambda n: n % 10 in (3, 4),
            Range("n", ((">=", 150),)): lambda n: n >= 150,
            Match("first", (False,)): lambda n: n >= 30,
            Filter(must_not=(Match("first", (False,)),)): lambda n: n < 30,
        }.items():
            expected = [f"{n:03d}" for n in range(200) if chosen(n)]
            for after, limit in (("", 1), ("", 3), ("029", 10), ("030", 3), ("100", 200), ("198", 5)):
                page = RECORDS.page(connection, condition, after, limit)
                assert [p.id for p in page] == [id_ for id_ in expected if id_ > after][:limit]
            rows = RECORDS.matching(connection, condition)
            for count in (0, 1, 20, 21, 200):
                some = np.arange(201, 201 + count, dtype=np.int64)
                among = RECORDS.matching_among(connection, condition, some)
                assert among.tolist() == [row for row in some.tolist() if row in rows]


def test_a_selection_reads_the_index_alone() -> None:
    """No payload is read where a condition is a value of a field: the figures of benchmarks rest on it."""
    with library(DOCS) as connection:
        asked: list[str] = []
        connection.set_trace_callback(asked.append)
        RECORDS.matching(connection, Filter(must=(Exists("year"), Match("year", (1990,)), Range("year", ((">", 1),)))))
        connection.set_trace_callback(None)
        for statement in asked:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            assert plan[0].startswith("SEARCH fields USING PRIMARY KEY (key=?")
            assert not any("points" in step for step in plan)
        assert len(asked) == 3


def test_the_fields_of_a_dropped_collection_are_cleared_away_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.purge.STEP_FIELDS", 7)
    monkeypatch.setattr("service.store.purge.STEP_ROWS", 3)
    database = Database(tmp_path / "library.sqlite3")
    insert = "INSERT INTO collections (name, fingerprint, dimension, keep, created_at) VALUES (?, 'f', 3, 'none', 0)"
    for number, name in enumerate(("one", "two"), start=1):
        database.write(lambda c, name=name: c.execute(insert, (name,)))  # type: ignore[misc]
        records = Records(number, 3)
        database.write(lambda c, records=records: records.put(c, [record(*doc) for doc in DOCS], False))  # type: ignore[misc]
    with database.snapshot() as connection:
        kept = [entry for entry in index_of(connection) if entry[0] == 2]
    database.write(lambda c: c.execute("DELETE FROM collections WHERE name = 'one'"))
    start_purge(database)
    for _ in range(100):  # each waits for a step before it
        left = database.write(lambda c: c.execute("SELECT count(*) FROM points WHERE collection = 1").fetchone()[0])
        names = database.write(
            lambda c: c.execute("SELECT count(*) FROM field_names WHERE collection = 1").fetchone()[0]
        )
    assert left == names == 0
    with database.snapshot() as connection:
        assert index_of(connection) == kept
        assert connection.execute("SELECT count(*) FROM fields").fetchone()[0] == len(kept)
    database.close()


INSIDE: list[Doc] = [
    ("a", None, {"meta": {"cam": "X100", "iso": 400, "lens": {"mm": 23, "f": [2, 2.8]}}}),
    ("b", None, {"meta": {"cam": "Z6", "iso": None, "tags": ["x", {"cam": "no"}]}}),
    ("c", None, {"meta.cam": "X100", "meta": {"cam": "Z6"}}),
    ("d", None, {"meta.cam": None, "meta": {"cam": "X100"}}),
    ("e", None, {"meta": [{"cam": "X100"}, {"cam": "Z6"}, 5, [{"cam": "deep"}]]}),
    ("f", None, {"meta": "X100", "cam": "X100"}),
    ("g", None, {"meta": {"cam.model": "X100", "": {"x": 1}}, "": {"cam": True}}),
    ("h", "cat", {"label": {"cam": 1}}),
    ("i", None, {"meta": {"cam": {"cam": 2**70}}}),
]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"key": "meta.cam", "match": {"value": "X100"}}, "ace"),
        ({"key": "meta.cam", "match": {"any": ["Z6", "no"]}}, "be"),
        ({"key": "meta.cam", "match": {"value": "deep"}}, ""),
        ({"exists": "meta.cam"}, "abcei"),
        ({"must_not": [{"exists": "meta.cam"}]}, "dfgh"),
        ({"exists": "meta.iso"}, "a"),
        ({"key": "meta.iso", "range": {"gte": 400}}, "a"),
        ({"key": "meta.lens.mm", "match": {"value": 23.0}}, "a"),
        ({"key": "meta.lens.f", "range": {"gt": 2, "lt": 3}}, "a"),
        ({"key": "meta.tags", "match": {"value": "x"}}, "b"),
        ({"key": "meta.tags.cam", "match": {"value": "no"}}, "b"),
        ({"exists": "meta.lens"}, "a"),
        ({"exists": "meta.lens.f.x"}, ""),
        ({"key": "meta.cam.model", "match": {"value": "X100"}}, "g"),
        ({"key": "meta..x", "match": {"value": 1}}, "g"),
        ({"key": ".cam", "match": {"value": True}}, "g"),
        ({"key": ".cam", "match": {"value": 1}}, ""),
        ({"key": "label.cam", "match": {"value": 1}}, "h"),
        ({"key": "meta.cam.cam", "match": {"value": 2**70}}, "i"),
        ({"exists": "meta."}, "g"),
        ({"exists": "."}, ""),
        ({"exists": "meta.cam.cam.cam"}, ""),
    ],
)
def test_u21_a_key_with_dots_reaches_into_objects(asked: dict[str, Any], expected: str) -> None:
    with library(INSIDE) as connection:
        condition = as_filter(asked)
        assert "".join(ids(connection, condition)) == expected
        every = RECORDS.matching(connection, Filter())
        for among in (every, every[::2], every[:0]):  # as the filter cache asks about those that changed
            both = RECORDS.matching_among(connection, condition, among)
            np.testing.assert_array_equal(both, np.intersect1d(RECORDS.matching(connection, condition), among))
        with_many = RECORDS.matching(connection, condition)
        assert (np.diff(with_many) > 0).all()


def test_u21_a_damaged_point_is_no_answer_inside_of_objects_either() -> None:
    with library(INSIDE) as connection:
        connection.execute("UPDATE points SET payload = replace(payload, 'Z6', 'Z7') WHERE id = 'b'")
        with pytest.raises(LibraryInvalid):
            ids(connection, Match("meta.cam", ("Z7",)))


DATED: list[Doc] = [
    ("a", None, {"taken": "2024-01-01T00:00:00Z"}),
    ("b", None, {"taken": "2024-01-01T00:59:59.5+01:00"}),  # half a second before
    ("c", None, {"taken": "2023-12-31T23:00:00.25-01:00"}),  # a quarter after
    ("d", None, {"taken": "2024-01-01"}),
    ("e", None, {"taken": "2024-01-02T12:00:00"}),
    ("f", None, {"taken": ["2020-05-05", "2024-06-06T00:00:00Z"]}),
    ("g", None, {"taken": 2024}),
    ("h", None, {"taken": "2024-02-30"}),
    ("i", None, {"taken": "2024-01-01 or so"}),
    ("j", None, {"taken": True, "meta": {"taken": "2024-01-01T00:00:00Z"}}),
    ("k", "2024-01-01", None),
]


@pytest.mark.parametrize(
    ("key", "bounds", "expected"),
    [
        ("taken", {"gte": "2024-01-01T00:00:00Z"}, "acdef"),
        ("taken", {"gt": "2024-01-01T00:00:00Z"}, "cef"),
        ("taken", {"gte": "2024-01-01"}, "acdef"),
        ("taken", {"lt": "2024-01-01T00:00:00Z"}, "bf"),
        ("taken", {"lte": "2024-01-01T01:00:00+01:00"}, "abdf"),
        ("taken", {"gte": "2024-01-01T00:00:00Z", "lt": "2024-01-01T00:00:00.25Z"}, "ad"),
        ("taken", {"gte": "2024-01-01T00:00:00.2500000Z", "lte": "2024-01-01T00:00:00.25Z"}, "c"),
        ("taken", {"gt": "2024-03-01T00:00:00Z"}, "f"),
        ("taken", {"gt": "2025-01-01T00:00:00Z"}, ""),
        ("taken", {"gte": "0001-01-01", "lte": "9999-12-31"}, "abcdef"),
        ("taken", {"gte": 2000}, "g"),
        ("meta.taken", {"gte": "2024-01-01T00:00:00Z"}, "j"),
        ("label", {"gte": "2024-01-01T00:00:00Z"}, "k"),
        ("label", {"gt": "2024-01-01T00:00:00Z"}, ""),
        ("absent", {"gte": "2024-01-01T00:00:00Z"}, ""),
    ],
)
def test_u21_dates_are_ranged_over_as_instants(key: str, bounds: dict[str, Any], expected: str) -> None:
    with library(DATED) as connection:
        condition = as_filter({"key": key, "range": bounds})
        assert "".join(ids(connection, condition)) == expected
        rows = RECORDS.matching(connection, Filter())[::2]
        both = RECORDS.matching_among(connection, condition, rows)
        np.testing.assert_array_equal(both, np.intersect1d(RECORDS.matching(connection, condition), rows))


fields_inside = st.recursive(
    st.none() | st.integers(0, 2) | st.booleans() | st.sampled_from(["0", ""]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b", "a.b", ""]), inner, max_size=3)
    ),
    max_leaves=8,
)


def reached(value: object, rest: str) -> list[Any]:
    """What a key reaches in a value, in plain Python."""
    if isinstance(value, list):
        return [found for item in value if isinstance(item, dict) for found in reached(item, rest)]
    if not isinstance(value, dict):
        return []
    found = [value[rest]] if rest in value else []
    for name, inner in value.items():
        if rest.startswith(f"{name}."):
            found += reached(inner, rest[len(name) + 1 :])
    return found


@settings(max_examples=60)
@given(
    st.lists(st.dictionaries(st.sampled_from(["a", "b", "a.b", ""]), fields_inside, max_size=3), max_size=6),
    st.sampled_from(["a.b", "a.a", "a.b.a", "b.a.b", ".a", "a.", "a..b"]),
    st.integers(0, 2),
)
def test_u21_a_key_with_dots_reaches_what_plain_python_does(
    payloads: list[dict[str, Any]], key: str, wanted: int
) -> None:
    def values_of(payload: dict[str, Any]) -> list[Any]:
        found = [payload[key]] if key in payload else reached(payload, key)
        return found + [item for each in found if isinstance(each, list) for item in each]

    with library([(f"{i}", None, payload) for i, payload in enumerate(payloads)]) as connection:
        has = [f"{i}" for i, payload in enumerate(payloads) if any(v is not None for v in values_of(payload))]
        equal = [f"{i}" for i, p in enumerate(payloads) if any(type(v) is int and v == wanted for v in values_of(p))]
        assert ids(connection, Exists(key)) == has
        assert ids(connection, Match(key, (wanted,))) == equal
