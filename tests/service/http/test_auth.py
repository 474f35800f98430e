from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fastapi.routing import APIRoute

from service.app import create_app
from service.errors import SettingsInvalid
from service.http.auth import OPEN_PATHS
from service.http.keyring import ANONYMOUS, Keyring
from service.http.keys import add_key
from service.settings import Settings, load_settings

if TYPE_CHECKING:
    from starlette.testclient import TestClient

NEEDED = {"artifact": Path("a"), "data": Path("d")}


def routes(app: object) -> list[tuple[str, str]]:
    document = app.openapi()  # type: ignore[attr-defined]
    found = [(method.upper(), path) for path, item in document["paths"].items() for method in item]
    return [*found, ("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/no-such-route"), ("POST", "/v1")]


@pytest.fixture
def locked(make_client: Callable[..., TestClient]) -> TestClient:
    return make_client(api_key="right-key", allow_anonymous=False)


def test_s36_every_route_but_the_two_probes_needs_the_key(locked: TestClient) -> None:
    tried = routes(locked.app)
    assert len(tried) > 25
    for method, path in tried:
        answer = locked.request(method, path)
        if path in OPEN_PATHS:
            assert answer.status_code == 200, path
        else:
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
            openais = path.startswith(("/v1/embeddings", "/v1/models"))
            assert answer.headers["content-type"] == ("application/json" if openais else "application/problem+json")
            assert (answer.json()["error"] if openais else answer.json())["code"] == "unauthorized"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer right-key"},
        {"Authorization": "bearer  right-key"},
        {"X-API-Key": "right-key"},
        {"X-API-Key": "right-key", "Authorization": "Basic dXNlcjpwYXNz"},
    ],
)
def test_the_key_is_taken_from_either_header(locked: TestClient, headers: dict[str, str]) -> None:
    assert locked.get("/v1/model", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "right-key"},
        {"Authorization": "Basic right-key"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer right-key2"},
        {"X-API-Key": ""},
        {"X-API-Key": "right-ke"},
        {"X-API-Key": "x" * 100_000},
        {"X-API-Key": b"right-key\x00"},
        {"X-API-Key": "right-kéy".encode()},
        {"Authorization": "Bearer rïght-key".encode()},
        {"Authorization": "Bearer " + "x" * 100_000},
        {"X-API-Key": b"right\xffkey"},
    ],
)
def test_s36_any_other_key_is_refused(locked: TestClient, headers: dict[str, str]) -> None:
    assert locked.get("/v1/model", headers=headers).status_code == 401


def test_s38_a_key_in_the_url_does_not_count_and_a_probe_with_a_suffix_is_no_probe(locked: TestClient) -> None:
    for path in ("/v1/model?api_key=right-key", "/livez/", "/livez/../v1/model", "/%6civez2"):
        assert locked.get(path).status_code == 401, path


def test_a_large_body_without_a_key_is_answered_401_and_not_413(locked: TestClient) -> None:
    answer = locked.post("/v1/embed", content=b"x", headers={"content-length": str(10**12)})
    assert answer.status_code == 401


def test_a_key_with_characters_outside_ascii_works(make_client: Callable[..., TestClient]) -> None:
    client = make_client(api_key="schlüssel", allow_anonymous=False)
    assert client.get("/v1/model", headers={"X-API-Key": "schlüssel".encode()}).status_code == 200


def test_an_anonymous_service_ignores_a_presented_key(client: TestClient) -> None:
    assert client.get("/v1/model", headers={"X-API-Key": "anything"}).status_code == 200


def test_s37_without_a_key_the_service_does_not_start(make_settings: Callable[..., Settings]) -> None:
    with pytest.raises(SettingsInvalid, match="DINODEX_API_KEY"):
        create_app(make_settings(allow_anonymous=False))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1"])
def test_s37_anonymous_service_listens_on_loopback_only(host: str) -> None:
    with pytest.raises(SettingsInvalid, match="loopback"):
        Keyring(load_settings(**NEEDED, allow_anonymous=True, host=host))
    assert Keyring(load_settings(**NEEDED, allow_anonymous=True, host="127.0.0.1")).find([]) is ANONYMOUS
    assert Keyring(load_settings(**NEEDED, api_key="k", host=host)).find([]) is None


def test_a_configured_key_is_needed_even_where_anonymous_is_allowed(make_client: Callable[..., TestClient]) -> None:
    assert make_client(api_key="k", allow_anonymous=True).get("/v1/model").status_code == 401


# What a key of scope `read` may ask for: that it changes nothing was thought about for each.
READS = {
    "/v1/embed",
    "/v1/embeddings",
    "/v1/visualize",
    "/v1/collections/{c}/points/scroll",
    "/v1/collections/{c}/points/count",
    "/v1/collections/{c}/query",
    "/v1/collections/{c}/query/batch",
    "/v1/collections/{c}/classify",
    "/v1/collections/{c}/classify/evaluate",
    "/v1/collections/{c}/label-issues",
    "/v1/collections/{c}/duplicates",
    "/v1/collections/{c}/outliers",
    "/v1/collections/{c}/clusterings/{g}/query",
}


def test_s38_a_key_that_may_read_changes_nothing(make_client: Callable[..., TestClient], tmp_path: Path) -> None:
    _, secret = add_key(tmp_path / "data", "reader", "read")
    client = make_client(allow_anonymous=False)
    key = {"X-API-Key": secret}
    refused, answered = set(), set()
    for method, path in routes(client.app):
        answer = client.request(method, path, headers=key, content=b"no request")
        (refused if answer.status_code == 403 else answered).add((method, path))
        if answer.status_code == 403:
            openais = path.startswith(("/v1/embeddings", "/v1/models"))
            assert (answer.json()["error"] if openais else answer.json())["code"] == "scope_missing"
    assert {path for method, path in answered if method == "POST"} == READS | {"/v1"}
    assert {method for method, _ in answered} == {"GET", "POST"}
    assert {method for method, _ in refused} == {"POST", "PUT", "PATCH", "DELETE"}
    document = client.get("/openapi.json", headers=key).json()["paths"]
    for path, item in document.items():
        for method, operation in item.items():
            assert ("403" in operation["responses"]) == ((method.upper(), path) in refused), (method, path)
            assert ("429" in operation["responses"]) == (path not in OPEN_PATHS)


def test_s39_no_answer_of_any_kind_lets_a_browser_keep_frame_or_run_it(locked: TestClient) -> None:
    key = {"X-API-Key": "right-key"}
    for path in ("/livez", "/v1/model", "/none", "/metrics", "/openapi.json", "/v1/collections"):
        for headers in ({}, key):
            answer = locked.get(path, headers=headers)
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "cdn.jsdelivr.net" in locked.get("/docs", headers=key).headers["content-security-policy"]


@pytest.mark.parametrize("keep", ["thumbnail", "image"])
def test_s39_a_picture_of_a_collection_is_kept_by_no_browser(
    client: TestClient, png: Callable[..., bytes], keep: str
) -> None:
    client.put("/v1/collections/c", json={"keep": keep})
    client.put("/v1/collections/c/points/p", content=png(), headers={"content-type": "image/png"})
    answer = client.get("/v1/collections/c/points/p/thumbnail")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.headers["cache-control"] == "no-store"


def test_the_probes_answer_head_without_a_key(locked: TestClient) -> None:
    for path in OPEN_PATHS:
        answer = locked.head(path)
        assert answer.status_code == 200
    assert locked.head("/v1/model").status_code == 401


def test_s41_a_key_that_asks_too_often_waits_and_another_does_not(
    make_client: Callable[..., TestClient], tmp_path: Path
) -> None:
    _, polite = add_key(tmp_path / "data", "polite", "read")
    client = make_client(allow_anonymous=False, api_key="flood", rate_per_s=2)
    answers = [client.get("/v1/model", headers={"X-API-Key": "flood"}) for _ in range(8)]
    codes = [answer.status_code for answer in answers]
    assert codes[:4] == [200] * 4, "twice the rate may come at once"
    assert 429 in codes
    refused = answers[codes.index(429)]
    assert refused.json()["code"] == "too_many_requests"
    assert refused.headers["retry-after"] == "1"
    assert client.get("/v1/model", headers={"X-API-Key": polite}).status_code == 200
    assert client.get("/livez").status_code == 200
    assert client.get("/v1/model", headers={"X-API-Key": "wrong"}).status_code == 401


def test_without_a_rate_a_key_may_ask_as_often_as_it_likes(locked: TestClient) -> None:
    codes = {locked.get("/v1/model", headers={"X-API-Key": "right-key"}).status_code for _ in range(200)}
    assert codes == {200}


def test_the_route_list_of_the_test_is_that_of_the_application(client: TestClient) -> None:
    documented = {path for _, path in routes(client.app)}
    for route in client.app.routes:  # type: ignore[attr-defined]
        if isinstance(route, APIRoute):
            assert route.path in documented
