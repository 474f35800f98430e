"""Paths behind a proxy: the three ways to give an id, and the prefix below which the service is published."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import pytest

from service.errors import MalformedRequest, SettingsInvalid
from service.http.paths import path_of
from service.settings import load_settings

if TYPE_CHECKING:
    from starlette.testclient import TestClient

C = "/v1/collections/c"
PNG = {"Content-Type": "image/png"}
IDS = [
    "p",
    "a/b.png",
    "/a//b/",
    "a/thumbnail",
    "thumbnail",
    "scroll",
    "../x",
    "./x",
    "..",
    ".",
    "100%.png",
    "a%2Fb",
    "a+b c&d=e#f?g;h",
    "ä/日本.png",
    "x" * 512,
]


@pytest.mark.parametrize(
    ("sent", "matched"),
    [
        (f"{C}/points/a%2Fb.png", f"{C}/points/a%2Fb.png"),
        (f"{C}/points/a/b.png", f"{C}/points/a%2Fb.png"),
        (f"{C}/points/a%2Fb/c", f"{C}/points/a%2Fb%2Fc"),
        (f"{C}/points/a/thumbnail", f"{C}/points/a/thumbnail"),
        (f"{C}/points/a%2Fthumbnail", f"{C}/points/a%2Fthumbnail"),
        (f"{C}/points/a/b.png/thumbnail", f"{C}/points/a%2Fb.png/thumbnail"),
        (f"{C}/points/thumbnail", f"{C}/points/thumbnail"),
        (f"{C}/points/delete", f"{C}/points/delete"),
        (f"{C}/points//a", f"{C}/points/%2Fa"),
        (f"{C}/points/", f"{C}/points/"),
        (f"{C}/points", f"{C}/points"),
        (f"{C}/clusterings/1/clusters/0/points", f"{C}/clusterings/1/clusters/0/points"),
    ],
)
def test_u19_the_rest_of_a_path_is_an_id_and_what_is_encoded_stays_as_it_was_sent(sent: str, matched: str) -> None:
    assert path_of(sent, b"") == matched


@pytest.mark.parametrize("query", ["", "id=", "id=a&id=b", "ID=a", "xid=a", "id"])
def test_u19_the_parameter_names_one_point(query: str, client: TestClient, collection: str) -> None:
    with pytest.raises(MalformedRequest, match="one point"):
        path_of(f"{C}/point", query.encode())
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        answer = client.request(method, f"{collection}/point?{query}")
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("encode", [quote_plus, lambda text: quote(text, safe=""), lambda text: quote(text, safe="/?")])
def test_u19_every_id_is_reached_by_the_parameter(
    client: TestClient, collection: str, png: Callable[..., bytes], encode: Callable[[str], str]
) -> None:
    for number, point_id in enumerate(IDS):
        at, image = f"{collection}/point?id={encode(point_id)}", png(seed=number)

        def ask(method: str, url: str = at, **request: Any) -> Any:  # noqa: ANN401
            answer = client.request(method, url, **request)
            assert answer.is_success, answer.text
            return answer

        put = ask("PUT", f"{at}&label=cat", content=image, headers=PNG).json()
        assert put == {"id": point_id, "status": "created"}
        assert ask("PATCH", json={"payload": {"n": number}}).json()["label"] == "cat"
        assert ask("GET").json()["payload"] == {"n": number}
        assert (
            ask("GET", f"{collection}/points/{quote(point_id, safe='').replace('.', '%2E')}").json()["id"] == point_id
        )
        thumbnail = ask("GET", at.replace("/point?", "/point/thumbnail?"))
        assert thumbnail.headers["content-type"] == "image/jpeg"
    for point_id in IDS:
        assert client.delete(f"{collection}/point?id={encode(point_id)}").status_code == 204
    assert client.post(f"{collection}/points/count", json={}).json() == {"count": 0}


def test_u19_an_id_with_slashes_is_the_rest_of_the_path_for_every_method(
    client: TestClient, collection: str, png: Callable[..., bytes]
) -> None:
    at = f"{collection}/points/cats/tabby/1.png"
    assert client.put(at, content=png(), headers=PNG).json() == {"id": "cats/tabby/1.png", "status": "created"}
    assert client.patch(at, json={"label": "cat"}).json()["label"] == "cat"
    assert client.get(at).json()["id"] == "cats/tabby/1.png"
    assert client.get(f"{at}/thumbnail").headers["content-type"] == "image/jpeg"
    assert client.put(f"{at}/thumbnail", content=png(), headers=PNG).status_code == 405
    assert client.delete(at).status_code == 204
    assert client.get(at).json()["code"] == "point_missing"


@pytest.mark.parametrize(
    ("encoded", "status"),
    [("%FF", 400), ("%C0%AF", 400), ("%ED%A0%80", 400), ("%00", 422), ("%0A", 422), ("x" * 513, 422), ("%252F", 404)],
)
def test_u19_what_is_no_id_is_refused_in_each_form_alike(
    client: TestClient, collection: str, encoded: str, status: int
) -> None:
    found = [client.get(f"{collection}/{form}{encoded}") for form in ("points/", "points/a/", "point?id=")]
    assert {answer.status_code for answer in found} == {status}
    assert len({answer.json()["code"] for answer in found}) == 1


def test_u19_a_key_that_reads_writes_in_no_form(make_client: Callable[..., TestClient]) -> None:
    from service.http.keys import add_key

    client = make_client(allow_anonymous=False, api_key="writer")
    _, reader = add_key(client.app.settings.data, "reader", "read")  # type: ignore[attr-defined]
    for form in ("points/a%2Fb", "points/a/b", "point?id=a%2Fb"):
        assert client.get(f"{C}/{form}").status_code == 401
        refused = client.delete(f"{C}/{form}", headers={"X-API-Key": reader})
        assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")


def test_u19_all_forms_count_as_one_route(client: TestClient, collection: str) -> None:
    for form in ("points/a%2Fb", "points/a/b", "point?id=a%2Fb"):
        assert client.get(f"{collection}/{form}").status_code == 404
    counted = re.search(
        r'dinodex_requests_total{method="GET",route="([^"]*points/{id})",status="404"} 3\.0',
        client.get("/metrics").text,
    )
    assert counted


@pytest.mark.parametrize("prefix", ["/dinodex", "/images/dinodex", "/livez2", "/vision-1.0_~"])
def test_u19_below_a_prefix_the_proxy_may_take_it_off_or_leave_it_on(
    make_client: Callable[..., TestClient], png: Callable[..., bytes], prefix: str
) -> None:
    client = make_client(root_path=prefix)
    assert client.put(f"{prefix}{C}").status_code == 201
    for number, before in enumerate(("", prefix)):
        at = f"{before}{C}/points/a%2F{number}"
        assert client.put(at, content=png(), headers=PNG).json() == {"id": f"a/{number}", "status": "created"}
        assert client.get(f"{before}{C}/point?id=a/{number}").status_code == 200
        assert client.get(f"{before}/livez").status_code == 200
        assert client.get(f"{before}/v1/models").json()["object"] == "list"
        assert client.post(f"{before}/v1/embeddings", json={}).json()["error"]["code"] == "invalid_request"
        page = client.get(f"{before}/docs")
        assert f"'{prefix}/openapi.json'" in page.text
        assert "cdn.jsdelivr.net" in page.headers["content-security-policy"]
        document = client.get(f"{before}/openapi.json").json()
        assert document["servers"] == [{"url": prefix}]
    assert client.get(f"{prefix}x{C}").status_code == 404


def test_u19_a_key_is_needed_below_the_prefix_too(make_client: Callable[..., TestClient]) -> None:
    client = make_client(allow_anonymous=False, api_key="secret", root_path="/dinodex")
    for before in ("", "/dinodex"):
        assert client.get(f"{before}/livez").status_code == 200
        assert client.get(f"{before}/v1/model").status_code == 401
        assert client.get(f"{before}/docs").status_code == 401
    assert client.get("/livez/dinodex").status_code == 401


def test_u19_without_a_prefix_the_document_names_no_server(client: TestClient) -> None:
    assert "servers" not in client.get("/openapi.json").json()
    assert "'/openapi.json'" in client.get("/docs").text


@pytest.mark.parametrize(
    ("given", "prefix"), [("dinodex", "/dinodex"), ("/dinodex/", "/dinodex"), ("/", ""), ("", ""), ("/a/b", "/a/b")]
)
def test_u19_a_prefix_is_read_with_and_without_its_slashes(given: str, prefix: str, tmp_path: Path) -> None:
    assert load_settings(artifact=tmp_path, data=tmp_path, root_path=given).root_path == prefix


@pytest.mark.parametrize(
    "given", ["/v1", "/v1/x", "docs", "/a b", "/a%20b", "/a//b", "/..", "/a/../b", "http://x/y", "/ä"]
)
def test_u19_a_prefix_that_could_be_a_path_of_ours_is_refused(given: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="DINODEX_ROOT_PATH"):
        load_settings(artifact=tmp_path, data=tmp_path, root_path=given)
