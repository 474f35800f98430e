"""Bad input, on every route that takes it: a refusal with a code, nothing stored, the service as before.

Bodies are written as the JSON text that is sent, because much of what goes wrong is no value that Python would write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from backbone import Artifact

JSON, PNG = {"content-type": "application/json"}, {"content-type": "image/png"}
C, EMPTY = "/v1/collections/c", "/v1/collections/empty"
GOOD = {"id": "p1", "limit": 12, "with_vector": True, "exact": True}
VECTOR = json.dumps([1.0] * 32)

# the least that each route wants, {g} for a clustering
LEAST = {
    "query": {"id": '"p1"'},
    "query/batch": {"id": '"p1"'},
    "classify": {"id": '"p1"'},
    "classify/evaluate": {},
    "label-issues": {},
    "points/scroll": {},
    "points/count": {},
    "points/delete": {"ids": '["p1"]'},
    "clusterings": {"k": "2"},
    "clusterings/{g}/query": {"id": '"p1"'},
    "duplicates": {},
    "outliers": {},
}
FILTERING = [route for route in LEAST if not re.match("clusterings|duplicates|outliers", route)]
SEARCHING = ["query", "query/batch", "classify", "clusterings/{g}/query"]
OF_NOTHING: dict[str, dict[str, object]] = {
    "query": {"result": []},
    "query/batch": {"results": [[]]},
    "points/scroll": {"result": [], "next_cursor": None},
    "points/count": {"count": 0},
    "points/delete": {"deleted": 0},
}

STATUS = {"malformed_request": 400, "collection_missing": 404, "clustering_missing": 404}
STATUS |= {"fingerprint_mismatch": 409, "collection_empty": 409}  # all others are 422
UNREADABLE = ("malformed_request", "invalid_request")


def text_of(route: str, fields: Mapping[str, str]) -> str:
    body = "{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}"
    return f'{{"queries": [{body}]}}' if route == "query/batch" else body


@dataclass
class Filled:
    """A service with twelve labelled points and a clustering of them, which no refused request may change."""

    client: TestClient
    clustering: str
    before: list[Any] = field(default_factory=list)

    def post(self, route: str, collection: str = C, **change: str) -> httpx.Response:
        """Send what the route wants at least, with a change to it."""
        fields = {**LEAST[route], **change}
        if "vector" in change or (route == "points/delete" and "filter" in change):
            del fields["ids" if route == "points/delete" else "id"]
        return self.send("POST", f"{collection}/{route}", text_of(route, fields))

    def send(self, method: str, path: str, body: str | bytes) -> httpx.Response:
        content = body.encode() if isinstance(body, str) else body
        return self.client.request(method, path.replace("{g}", self.clustering), content=content, headers=JSON)

    def state(self) -> list[Any]:
        reads = [self.client.get(path) for path in ("/v1/collections", f"{C}/clusterings")]
        reads += [self.client.get(f"{C}/clusterings/{self.clustering}/clusters")]
        posts = {f"{C}/points/scroll": {"with_vector": True}, f"{C}/query": GOOD}
        reads += [self.client.post(path, json=body) for path, body in posts.items()]
        assert {answer.status_code for answer in reads} == {200}
        listed, *others = (answer.json() for answer in reads)
        return [[(each["name"], each["count"]) for each in listed["result"]], *others]

    def refused(self, answer: httpx.Response, *codes: str) -> None:
        """Check that it is a problem with one of these codes, and that the service holds and answers what it did before."""
        assert answer.headers["content-type"] == "application/problem+json", answer.text[:300]
        problem = answer.json()
        assert problem["code"] in codes, answer.text[:300]
        assert answer.status_code == problem["status"] == STATUS.get(problem["code"], 422)
        assert problem["type"] == f"urn:dinodex:{problem['code']}"
        assert problem.keys() >= {"title", "detail", "request_id"}
        assert len(answer.content) < 10_000  # what was sent is not sent back
        assert self.state() == self.before


@pytest.fixture(scope="module")
def filled(tiny_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """Start one service for all of these tests; that it stays as it was is what they are about."""
    from starlette.testclient import TestClient

    from service.app import create_app
    from service.settings import load_settings

    settings = load_settings(
        artifact=tiny_artifact.path,
        data=tmp_path_factory.mktemp("bad-input"),
        allow_anonymous=True,
        runtime="torch",
        threads=1,
    )
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        for path in (C, EMPTY):
            client.put(path).raise_for_status()
        vectors = np.random.default_rng(0).normal(size=(12, 32)).tolist()
        points = [
            {"id": f"p{i}", "vector": v, "label": f"l{i % 2}", "payload": {"n": i}} for i, v in enumerate(vectors)
        ]
        client.put(f"{C}/points", json={"points": points}).raise_for_status()
        made = Filled(client, client.post(f"{C}/clusterings", json={"k": 2}).json()["clustering"])
        made.before = made.state()
        yield made


def deep(levels: int) -> str:
    return '{"must": [' * levels + "]}" * levels


def conditions(count: int) -> str:
    return json.dumps({"must": [{"exists": "label"}] * count})


def ids(count: int) -> str:
    return json.dumps({"must": [{"ids": [f"p{index}" for index in range(count)]}]})


FILTERS = {
    "9 levels": deep(9),
    "100 levels": deep(100),
    "200 levels": deep(200),
    "500 levels": deep(500),
    "100,000 levels": deep(100_000),
    "129 conditions": conditions(129),
    "100,000 conditions": conditions(100_000),
    "10,001 ids": ids(10_001),
    "unknown field": '{"most": []}',
    "unknown field of a condition": '{"must": [{"exists": "n", "weight": 2}]}',
    "unknown field of a range": '{"must": [{"key": "n", "range": {"above": 1}}]}',
    "unknown field with a lone surrogate": r'{"\ud800": []}',
    "text range bound": '{"must": [{"key": "n", "range": {"gt": "5"}}]}',
    "boolean range bound": '{"must": [{"key": "n", "range": {"gt": true}}]}',
    "NaN": '{"must": [{"key": "n", "range": {"gt": NaN}}]}',
    "Infinity": '{"must": [{"key": "n", "match": {"value": -Infinity}}]}',
    "1e400": '{"must": [{"key": "n", "range": {"lt": 1e400}}]}',
    "401 digits": '{"must": [{"key": "n", "range": {"lt": 1%s}}]}' % ("0" * 400),
    "lone surrogate": r'{"must": [{"key": "label", "match": {"value": "\ud800"}}]}',
    "NUL in a key": r'{"must": [{"exists": "a\u0000b"}]}',
    "null value": '{"must": [{"key": "label", "match": {"value": null}}]}',
    "no object": '["must"]',
}


@pytest.mark.parametrize("route", FILTERING)
@pytest.mark.parametrize("case", FILTERS)
def test_a_filter_outside_the_language_is_refused(filled: Filled, route: str, case: str) -> None:
    filled.refused(filled.post(route, filter=FILTERS[case]), "filter_invalid", *UNREADABLE)


@pytest.mark.parametrize("route", ["query", "classify"])
@pytest.mark.parametrize("case", [case for case in FILTERS if "100,000" not in case and "10,001" not in case])
def test_a_filter_in_the_url_is_refused_alike(filled: Filled, png: Callable[..., bytes], route: str, case: str) -> None:
    answer = filled.client.post(f"{C}/{route}", params={"filter": FILTERS[case]}, content=png(), headers=PNG)
    filled.refused(answer, "filter_invalid", *UNREADABLE)


@pytest.mark.parametrize("route", ["query", "classify"])
def test_a_filter_in_the_url_is_checked_although_that_of_a_json_body_counts(filled: Filled, route: str) -> None:
    bad = filled.client.post(f"{C}/{route}", params={"filter": '{"must": [null]}'}, json={"id": "p1"})
    filled.refused(bad, "filter_invalid")
    none_like_it = '{"must": [{"exists": "nothing"}]}'
    good = filled.client.post(f"{C}/{route}", params={"filter": none_like_it}, json={"id": "p1"})
    assert good.json() == filled.post(route).json()


@pytest.mark.parametrize("route", [route for route in FILTERING if route != "points/delete"])
@pytest.mark.parametrize(
    "most", [deep(8), conditions(128), ids(10_000)], ids=["8 levels", "128 conditions", "10,000 ids"]
)
def test_a_filter_at_the_limits_is_answered(filled: Filled, route: str, most: str) -> None:
    assert filled.post(route, filter=most).status_code == 200


NUMBERS = ["0", "-1", "1001", "1000000000", "1" + "0" * 30, '"5"', "1.5", "true", "null", "NaN", "1e400", "[]"]
COUNTED = [
    *[(route, "limit") for route in ("query", "query/batch", "points/scroll", "clusterings/{g}/query", "duplicates")],
    *[(route, name) for route in ("outliers", "label-issues") for name in ("k", "limit")],
    *[(route, "k") for route in ("classify", "clusterings")],
]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(("route", "name"), COUNTED)
def test_s20_a_k_or_limit_out_of_range_or_of_another_type_is_422(
    filled: Filled, route: str, name: str, number: str
) -> None:
    filled.refused(filled.post(route, **{name: number}), "invalid_request")


@pytest.mark.parametrize(("route", "name"), [counted for counted in COUNTED if counted[0] != "clusterings"])
def test_a_whole_number_may_be_written_with_a_point(filled: Filled, route: str, name: str) -> None:
    answer = filled.post(route, **{name: "2.0"})
    assert (answer.status_code, answer.json()) == (200, filled.post(route, **{name: "2"}).json())


@pytest.mark.parametrize(
    "ks", [*(f"[5, {number}]" for number in NUMBERS), "[]", "5", "[5, 5]", json.dumps([*range(1, 18)])]
)
def test_ks_of_an_evaluation_are_checked_alike(filled: Filled, ks: str) -> None:
    filled.refused(filled.post("classify/evaluate", ks=ks), "invalid_request")


@pytest.mark.parametrize("number", ["0", "-1", "1001", "1000000000", "x", "1.5", "true", "nan", "1e3", ""])
def test_a_limit_in_the_url_is_checked_alike(filled: Filled, png: Callable[..., bytes], number: str) -> None:
    grouped = f"{C}/clusterings/{filled.clustering}"
    for path in (f"{grouped}/clusters/0/points", f"{grouped}/outliers"):
        filled.refused(filled.client.get(path, params={"limit": number}), "invalid_request")
    for path, name in ((f"{C}/query", "limit"), (f"{C}/classify", "k"), (f"{grouped}/query", "limit")):
        answer = filled.client.post(path, params={name: number}, content=png(), headers=PNG)
        filled.refused(answer, "invalid_request")


VECTORS = {
    "short": (VECTOR.replace("1.0, ", "", 1), "dimension_mismatch"),
    "long": (VECTOR.replace("]", ", 1.0]"), "dimension_mismatch"),
    "very long": (json.dumps([1] * 100_000), "dimension_mismatch"),
    "empty": ("[]", "invalid_request"),
    "nested": (f"[{VECTOR}]", "invalid_request"),
    "zero": (VECTOR.replace("1.0", "0"), "invalid_vector"),
    "too small for a float": (VECTOR.replace("1.0", "1e-60"), "invalid_vector"),
    "text": (f'"{VECTOR}"', "invalid_request"),
    "an object": ('{"0": 1.0}', "invalid_request"),
    **{
        f"one is {number}": (VECTOR.replace("1.0", number, 1), code)
        for numbers, code in (
            (("NaN", "Infinity", "-Infinity", "1e400", "1e300"), "invalid_vector"),
            (('"1"', "null", "true", "[1.0]"), "invalid_request"),
        )
        for number in numbers
    },
}


@pytest.mark.parametrize("case", VECTORS)
@pytest.mark.parametrize("route", [*SEARCHING, "PUT points"])
def test_s21_a_vector_that_is_none_of_this_collection_is_422(filled: Filled, route: str, case: str) -> None:
    vector, code = VECTORS[case]
    if route == "PUT points":
        body = f'{{"points": [{{"id": "good", "vector": {VECTOR}}}, {{"id": "bad", "vector": {vector}}}]}}'
        filled.refused(filled.send("PUT", f"{C}/points", body), code)
    else:
        filled.refused(filled.post(route, vector=vector), code)


@pytest.mark.parametrize("given", ["f" * 64, "", "x" * 100_000, r"a\u0000b", r"\ud800"], ids=lambda given: given[:9])
def test_the_fingerprint_of_another_model_is_409(filled: Filled, given: str) -> None:
    # text with half a character in it cannot be read at all, or names no model either
    for route in SEARCHING:
        filled.refused(filled.post(route, fingerprint=f'"{given}"'), "fingerprint_mismatch", "malformed_request")
    put = f'{{"points": [{{"id": "new", "vector": {VECTOR}}}], "fingerprint": "{given}"}}'
    for path, body in ((f"{C}/points", put), (f"{C}2", f'{{"fingerprint": "{given}"}}')):
        filled.refused(filled.send("PUT", path, body), "fingerprint_mismatch", "malformed_request")


@pytest.mark.parametrize("name", ["most", "", r"\u0000", r"\ud800"], ids=lambda name: name[:9])
@pytest.mark.parametrize("route", LEAST)
def test_an_unknown_field_is_refused(filled: Filled, route: str, name: str) -> None:
    filled.refused(filled.post(route, **{name: "1"}), *UNREADABLE)


@pytest.mark.parametrize("route", LEAST)
@pytest.mark.parametrize(
    "body",
    [b"{", b"NaN", b"[]", b'"x"', b'{"a":\xff}', b"[" * 100_000, b'{"a":' * 100_000],
    ids=lambda body: repr(body[:9]),
)
def test_s21_a_body_that_is_no_json_object_is_refused(filled: Filled, route: str, body: bytes) -> None:
    filled.refused(filled.send("POST", f"{C}/{route}", body), *UNREADABLE)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e400", "null", "[]", "{}", "1", "2, 3"])
def test_the_two_values_of_duplicates_are_checked(filled: Filled, value: str) -> None:
    filled.refused(filled.post("duplicates", key='"n"', across=f"[1, {value}]"), "invalid_request", "filter_invalid")


def test_1_and_true_are_two_values_of_duplicates(filled: Filled) -> None:
    assert filled.post("duplicates", key='"n"', across="[1, true]").status_code == 200


@pytest.mark.parametrize("route", LEAST)
def test_a_missing_collection_is_404(filled: Filled, route: str) -> None:
    filled.refused(filled.post(route, "/v1/collections/none"), "collection_missing")


@pytest.mark.parametrize("route", LEAST)
def test_s20_an_empty_collection_answers_with_nothing_or_409(filled: Filled, route: str) -> None:
    answer = filled.post(route, EMPTY, **({"vector": VECTOR} if route in SEARCHING else {}))
    if route in OF_NOTHING:
        assert (answer.status_code, answer.json()) == (200, OF_NOTHING[route])
    else:
        filled.refused(answer, "clustering_missing" if "{g}" in route else "collection_empty")
