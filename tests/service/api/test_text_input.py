"""Text that a caller chooses: ids, labels, payloads and cursors. What may be kept is opaque; what may not is refused whole."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest

if TYPE_CHECKING:
    from starlette.testclient import TestClient

PNG = {"content-type": "image/png"}
JSON = {"content-type": "application/json"}
VECTOR = [1.0] * 32

OPAQUE = {
    "path": "../../etc/passwd",
    "absolute path": "C:\\..\\con",
    "SQL": "x'); DROP TABLE points; --",
    "SQL pattern": "%_*?[a]",
    "SQL quotes": "\"'`''\\",
    "JSON path": '$.a[0]."b"',
    "JSON": '{"must": []}',
    "format strings": "%s%n{0.__class__}${HOME}",
    "markup": "<script>alert(1)</script>",
    "right to left": "\u202eשלום\u2066",
    "emoji": "👩\u200d👩\u200d👧🏽",
    "decomposed": "e\u0301",
    "byte order mark": "\ufeff",
    "noncharacter": "\uffff",
    "space": " ",
    "the name of a field": "label",
    "512 characters of four bytes": "😀" * 512,
}
UNKEPT = {"513 characters": "x" * 513, "empty": "", "NUL": "a\0b", "line feed": "\n", "DEL": "\x7f", "C1": "\x85"}
HALF = "\ud83d"  # a lone surrogate; JSON can write it, UTF-8 cannot


def url(collection: str, point: str) -> str:
    return f"{collection}/points/{quote(point, safe='')}"


def sent(client: TestClient, method: str, path: str, body: object) -> httpx.Response:
    """Send JSON in ASCII, which can write what httpx would not encode."""
    return client.request(method, path, content=json.dumps(body).encode(), headers=JSON)


def nothing_stored(client: TestClient, collection: str) -> bool:
    counted: dict[str, int] = client.post(f"{collection}/points/count", json={}).json()
    return counted == {"count": 0}


@pytest.mark.parametrize("case", OPAQUE)
def test_s22_text_is_kept_and_found_as_it_is(client: TestClient, collection: str, case: str) -> None:
    text = OPAQUE[case]
    point = {"id": text, "label": text, "payload": {text: text, "in": [text, {text: text}]}}
    near = [f"{text[:511]}x", text[:-1] or "y", "e", "é"]
    others = [{"id": f"{i} {each}"[:512], "label": each, "payload": {each: each}} for i, each in enumerate(near)]
    vectors = np.eye(5, 32).tolist()
    points = [{**each, "vector": vector} for each, vector in zip([point, *others], vectors, strict=True)]
    answer = client.put(f"{collection}/points", json={"points": points})
    assert [each.get("status") for each in answer.json()["result"]] == ["created"] * 5, answer.text

    assert client.get(url(collection, text)).json() == point
    [nearest] = client.post(f"{collection}/query", json={"vector": vectors[0], "limit": 1}).json()["result"]
    assert nearest.items() >= point.items()
    assert client.post(f"{collection}/classify", json={"vector": vectors[0], "k": 1}).json()["label"] == text
    ones: list[dict[str, Any]] = [{"ids": [text]}, {"key": "label", "match": {"value": text}}]
    if text != "label":  # which is the label itself, whatever the payload says
        ones += [{"exists": text}, {"key": text, "match": {"any": [text, 1]}}]
    for one in [*ones, {"key": "in", "match": {"value": text}}]:
        [found] = client.post(f"{collection}/points/scroll", json={"filter": {"must": [one]}}).json()["result"]
        assert found.items() >= point.items()

    listed, cursor = [], None
    for _ in points:
        page = client.post(f"{collection}/points/scroll", json={"limit": 1, "cursor": cursor}).json()
        listed += [each["id"] for each in page["result"]]
        cursor = page["next_cursor"]
    assert (sorted(listed), cursor) == (sorted(each["id"] for each in points), None)  # type: ignore[type-var]

    deleted = client.post(f"{collection}/points/delete", json={"filter": {"must": ones}})
    assert deleted.json() == {"deleted": 1}
    missing = client.get(url(collection, text))
    assert (missing.status_code, missing.json()["code"]) == (404, "point_missing")
    assert client.post(f"{collection}/points/count").json() == {"count": 4}


@pytest.mark.parametrize("case", UNKEPT)
def test_s22_an_id_or_label_outside_the_rule_is_422_and_nothing_of_the_request_is_stored(
    client: TestClient, collection: str, png: Callable[..., bytes], case: str
) -> None:
    text = UNKEPT[case]
    image = base64.b64encode(png()).decode()
    for content in ({"vector": VECTOR}, {"image": image}):
        for said, code in (({"id": text}, "invalid_id"), ({"id": "p", "label": text}, "invalid_label")):
            points = [{"id": "good", "vector": VECTOR}, {**said, **content}]
            answer = client.put(f"{collection}/points", json={"points": points})
            assert (answer.status_code, answer.json()["code"]) == (422, code)
    answer = client.put(url(collection, "p"), params={"label": text}, content=png(), headers=PNG)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_label")
    for route in ("query", "classify"):
        answer = client.post(f"{collection}/{route}", json={"id": text})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_id")
    if text:  # without an id it is another route
        for answer in (
            client.get(url(collection, text)),
            client.delete(url(collection, text)),
            client.patch(url(collection, text), json={"label": "l"}),
            client.get(f"{url(collection, text)}/thumbnail"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_id")
    assert nothing_stored(client, collection)
    assert client.put(url(collection, "p"), content=png(), headers=PNG).json()["status"] == "created"


PAYLOADS = {
    "NUL in a key": r'{"a\u0000": 1}',
    "NUL in a value": r'{"a": "\u0000"}',
    "NUL deep inside": r'{"a": [{"b": "\u0000"}]}',
    "half a character in a key": r'{"\ud83d": 1}',
    "half a character in a value": r'{"a": "\ud83d"}',
    "NaN": '{"a": NaN}',
    "Infinity": '{"a": [-Infinity]}',
    "1e400": '{"a": 1e400}',
    "5,000 digits": f'{{"a": {"1" * 5000}}}',
    "more than 64 KiB": f'{{"a": "{"x" * 65_536}"}}',
    "33 levels": '{"a": ' * 33 + "1" + "}" * 33,
    "300 levels": '{"a": ' * 300 + "1" + "}" * 300,
    "100,000 levels": '{"a": ' * 100_000 + "1" + "}" * 100_000,
    "a list": "[1]",
    "text": '"{}"',
    "not JSON": "{",
}


@pytest.mark.parametrize("case", PAYLOADS)
def test_a_payload_that_cannot_be_kept_is_refused(
    client: TestClient, collection: str, png: Callable[..., bytes], case: str
) -> None:
    payload, vector = PAYLOADS[case], json.dumps(VECTOR)
    points = f'[{{"id": "good", "vector": {vector}}}, {{"id": "bad", "vector": {vector}, "payload": {payload}}}]'
    answers = [client.put(f"{collection}/points", content=f'{{"points": {points}}}', headers=JSON)]
    if len(payload) <= 65_536:  # no URL is longer
        answers.append(client.put(url(collection, "p"), params={"payload": payload}, content=png(), headers=PNG))
    assert nothing_stored(client, collection)
    put = client.put(f"{collection}/points", json={"points": [{"id": "p", "vector": VECTOR, "payload": {"n": 1}}]})
    assert put.status_code == 200
    body = f'{{"label": "l", "payload": {payload}}}'
    answers.append(client.patch(url(collection, "p"), content=body, headers=JSON))
    for answer in answers:
        allowed = {(422, "invalid_payload"), (422, "invalid_request"), (400, "malformed_request")}
        assert (answer.status_code, answer.json()["code"]) in allowed, answer.text
    assert client.get(url(collection, "p")).json() == {"id": "p", "label": None, "payload": {"n": 1}}


def test_half_a_character_is_refused_wherever_text_goes(client: TestClient, collection: str) -> None:
    client.put(f"{collection}/points", json={"points": [{"id": "p", "vector": VECTOR}]}).raise_for_status()
    made = client.post(f"{collection}/clusterings", json={"k": 1}).json()["clustering"]
    requests: list[tuple[str, str, object]] = [
        ("PUT", "/points", {"points": [{"id": HALF, "vector": VECTOR}]}),
        ("PUT", "/points", {"points": [{"id": "q", "vector": VECTOR, "label": HALF}]}),
        ("PATCH", "/points/p", {"label": HALF}),
        ("POST", "/query", {"id": HALF}),
        ("POST", "/query/batch", {"queries": [{"id": HALF}]}),
        ("POST", "/classify", {"id": HALF}),
        ("POST", "/points/scroll", {"cursor": HALF}),
        ("POST", "/duplicates", {"key": HALF, "across": ["a", "b"]}),
        ("PATCH", f"/clusterings/{made}/clusters/0", {"name": HALF}),
        ("PUT", "", {"keep": HALF}),
    ]
    for method, path, body in requests:
        answer = sent(client, method, collection + path, body)
        assert answer.status_code in (400, 422), (path, answer.text)
    for path in ("points/%ED%A0%BD", "points/%ff", "points/%ff/thumbnail"):
        answer = client.get(f"{collection}/{path}")
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
    assert client.get(url(collection, "p")).json() == {"id": "p", "label": None, "payload": None}
    assert client.post(f"{collection}/points/count").json() == {"count": 1}


@pytest.mark.parametrize("form", ["vectors", "npy", "images"])
def test_s18_the_same_id_twice_in_one_request_is_400(
    client: TestClient, collection: str, png: Callable[..., bytes], form: str
) -> None:
    npy = io.BytesIO()
    np.save(npy, np.ones((3, 32)))
    ids = [{"id": "twin"}, {"id": "other"}, {"id": "twin"}]
    files = {
        "npy": [("vectors", ("v.npy", npy.getvalue()))],
        "images": [("files", ("same.png", png()))] * 3,  # not even where the content is the same
    }
    if form == "vectors":
        answer = client.put(f"{collection}/points", json={"points": [{**each, "vector": VECTOR} for each in ids]})
    else:
        answer = client.put(f"{collection}/points", data={"points": json.dumps({"points": ids})}, files=files[form])
    assert (answer.status_code, answer.json()["code"]) == (400, "duplicate_id")
    assert nothing_stored(client, collection)


def test_a_cursor_is_good_for_the_listing_that_gave_it_and_no_other(client: TestClient, collection: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 32)).tolist()
    points = {"points": [{"id": f"p{i}", "vector": vector} for i, vector in enumerate(vectors)]}
    listings: dict[str, Callable[[str | None], httpx.Response]] = {}

    def scroll(path: str) -> Callable[[str | None], httpx.Response]:
        return lambda cursor: client.post(path, json={"limit": 1, "cursor": cursor})

    def read(path: str, **params: int) -> Callable[[str | None], httpx.Response]:
        given = {"limit": 1, **params}
        return lambda cursor: client.get(path, params=given if cursor is None else {**given, "cursor": cursor})

    for name in (collection, "/v1/collections/other"):
        client.put(name)
        client.put(f"{name}/points", json=points).raise_for_status()
        listings[f"{name} scroll"] = scroll(f"{name}/points/scroll")
        for _ in range(2):
            made = client.post(f"{name}/clusterings", json={"k": 2}).json()["clustering"]
            path = f"{name}/clusterings/{made}"
            for n in range(2):
                listings[f"{path} members {n}"] = read(f"{path}/clusters/{n}/points")
                listings[f"{path} outliers {n}"] = read(f"{path}/outliers", cluster=n)
            listings[f"{path} outliers"] = read(f"{path}/outliers")
    cursors = {name: listing(None).json()["next_cursor"] for name, listing in listings.items()}
    assert None not in cursors.values()
    foreign = {"empty": "", "garbage": "x", "NUL": "\0", "very long": "A" * 50_000, "base64": "e30=", "é": "é"}
    for name, listing in listings.items():
        tampered = {"cut": cursors[name][:-4], "longer": cursors[name] + "AAAA", "turned": cursors[name][::-1]}
        for other, cursor in {**cursors, **foreign, **tampered}.items():
            answer = listing(cursor)
            if other == name:
                assert answer.status_code == 200
            else:
                assert (answer.status_code, answer.json()["code"]) == (422, "cursor_invalid"), (name, other)
