from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from starlette.requests import Request
from starlette.types import Scope
from structlog.testing import capture_logs

from backbone import errors as backbone_errors
from service import errors
from service.http.problems import error_of, item_problem, problem_response, status_of
from service.http.request_state import request_state

if TYPE_CHECKING:
    from starlette.testclient import TestClient

FIELDS = {"type", "title", "status", "detail", "code", "request_id"}
AT_START = (errors.CannotStart, errors.LibraryInvalid, errors.KeysInvalid)  # these end the process, not a request


def subclasses(cls: type[Exception]) -> Iterator[type[Exception]]:
    for each in cls.__subclasses__():
        yield each
        yield from subclasses(each)


def made(cls: type[Exception]) -> Exception:
    return cls("said so", ()) if cls is errors.ItemsRefused else cls("said so")


@pytest.mark.parametrize(
    "cls",
    [*subclasses(errors.ServiceError), *subclasses(backbone_errors.ImageRefused)],
    ids=lambda cls: cls.__name__,
)
def test_every_error_of_both_trees_has_a_status_of_the_policy(cls: type[Exception]) -> None:
    status = status_of(made(cls))
    ours = issubclass(cls, (errors.Inference, *AT_START))
    if cls is errors.CallerLeft:  # nobody reads it; it is for the log
        assert status == 499
        return
    assert status == 500 if ours else status in {400, 401, 403, 404, 409, 413, 415, 422, 429, 503, 504, 507}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (backbone_errors.EmptyImage("x"), 400),
        (backbone_errors.UnsupportedImageType("x"), 415),
        (backbone_errors.TooManyBytes("x"), 413),
        (backbone_errors.TooManyPixels("x"), 422),
        (backbone_errors.CorruptImage("x"), 422),
        (errors.DuplicateId("x"), 400),
        (errors.InvalidVector("x"), 422),
        (errors.PointConflict("x"), 409),
        (errors.CollectionEmpty("x"), 409),
        (errors.CollectionMissing("x"), 404),
        (errors.StorageFull("x"), 507),
        (errors.Saturated("x"), 503),
        (errors.EmbeddingNotFinite("x"), 500),
        (KeyError("x"), 500),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_status_policy(error: Exception, status: int) -> None:
    assert status_of(error) == status


@pytest.mark.parametrize("cls", [errors.Saturated, errors.Stopping, errors.StorageFailed])
def test_what_may_succeed_later_says_when(cls: type[Exception]) -> None:
    answer = problem_response(Request({"type": "http"}), made(cls))
    assert int(answer.headers["retry-after"]) == json.loads(answer.body)["retry_after_s"] >= 1


def test_a_surprise_says_nothing_of_the_inside_and_is_logged_without_paths() -> None:
    scope: Scope = {"type": "http"}
    request_state(scope).request_id = "r1"
    try:
        raise ValueError("inner words")  # noqa: TRY301
    except ValueError as error:
        with capture_logs() as logs:
            answer = problem_response(Request(scope), error)
    problem = json.loads(answer.body)
    assert (answer.status_code, problem["code"], problem["request_id"]) == (500, "internal_error", "r1")
    assert "inner words" not in answer.body.decode()
    [line] = logs
    assert line["error"] == "ValueError"
    assert line["request_id"] == "r1"
    assert line["where"][0].startswith("test_problems:") or "test_problems:" in line["where"][0]
    assert not any("/" in place for place in line["where"])


def test_s39_a_file_that_cannot_be_read_is_no_path_in_an_answer_or_the_log(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(self: object) -> None:
        (tmp_path / "secret-name").read_bytes()

    monkeypatch.setattr("service.library.library.Library.collections", missing)
    with capture_logs() as logs:
        answer = client.get("/v1/collections")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    told = answer.text + json.dumps(logs)
    assert "secret-name" not in told
    assert str(tmp_path) not in told
    [failed] = [line for line in logs if line["event"] == "failed"]
    assert (failed["error"], failed["detail"]) == ("FileNotFoundError", "No such file or directory")


def test_s39_a_disk_that_refuses_is_503_without_the_words_that_are_for_the_shell() -> None:
    error = backbone_errors.StorageFailed("cannot write /srv/secret/file: No space left; check the disk's space.")
    answer = problem_response(Request({"type": "http"}), error)
    ours = json.loads(problem_response(Request({"type": "http"}), errors.StorageFailed("x")).body)
    problem = json.loads(answer.body)
    assert (answer.status_code, problem["code"]) == (503, ours["code"])
    assert "/srv" not in problem["detail"]
    assert int(answer.headers["retry-after"]) == problem["retry_after_s"] == ours["retry_after_s"]


def test_items_that_were_refused_are_listed_by_index() -> None:
    error = errors.ItemsRefused(
        "two were refused", [(1, backbone_errors.CorruptImage("x")), (3, errors.InvalidVector("y"))]
    )
    problem = json.loads(problem_response(Request({"type": "http"}), error).body)
    assert [(each["index"], each["code"], each["status"]) for each in problem["errors"]] == [
        (1, "image_corrupt", 422),
        (3, "invalid_vector", 422),
    ]


def test_an_error_that_a_job_recorded_is_answered_as_itself() -> None:
    for cls in subclasses(errors.ServiceError):
        found = error_of(cls.code, "said so")
        assert (found.code, str(found), status_of(found)) == (cls.code, "said so", status_of(made(cls)))
    assert item_problem(error_of("internal_error", "secret"))["status"] == 500


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"),
    [
        ("GET", "/nothing", {}, 404, "not_found"),
        ("GET", "/v1/nothing", {}, 404, "not_found"),
        ("PATCH", "/v1/embed", {}, 405, "method_not_allowed"),
        ("GET", "/v1/collections/none", {}, 404, "collection_missing"),
        ("PUT", "/v1/collections/-bad", {}, 422, "invalid_name"),
        ("GET", "/v1/collections/%ff", {}, 400, "malformed_request"),
        ("PUT", "/v1/collections/x", {"json": {"keep": "everything"}}, 422, "invalid_request"),
        ("PUT", "/v1/collections/x", {"json": {"kep": "image"}}, 422, "invalid_request"),
        ("PUT", "/v1/collections/x", {"json": {"fingerprint": "0" * 64}}, 409, "fingerprint_mismatch"),
        ("PUT", "/v1/collections/x", {"content": b"a=b"}, 415, "unsupported_body"),
        ("POST", "/v1/collections/c/points/scroll", {"json": {"limit": 0}}, 422, "invalid_request"),
        ("POST", "/v1/collections/c/points/scroll", {"json": {"limit": 1001}}, 422, "invalid_request"),
        ("POST", "/v1/collections/c/points/scroll", {"json": {"limit": "5"}}, 422, "invalid_request"),
        ("POST", "/v1/collections/c/points/scroll", {"json": {"cursor": "x"}}, 422, "cursor_invalid"),
        ("POST", "/v1/collections/c/points/delete", {"json": {}}, 422, "invalid_request"),
        ("POST", "/v1/collections/c/query", {"json": {"vector": [1.0]}}, 422, "dimension_mismatch"),
        ("POST", "/v1/collections/c/query", {"json": {"id": "nobody"}}, 404, "point_missing"),
        ("POST", "/v1/collections/c/classify", {"json": {"vector": [1.0] * 32}}, 409, "collection_empty"),
        ("POST", "/v1/collections/c/clusterings", {"json": {"k": 3}}, 409, "collection_empty"),
        ("GET", "/v1/jobs/none", {}, 404, "job_missing"),
    ],
)
def test_every_refusal_has_the_one_shape(
    client: TestClient,
    collection: str,
    method: str,
    path: str,
    options: dict[str, object],
    status: int,
    code: str,
) -> None:
    answer = client.request(method, path, **options)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert FIELDS <= set(problem) <= FIELDS | {"errors", "retry_after_s"}
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["type"] == f"urn:dinodex:{code}"


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"",
        b'{"vector": [NaN, Infinity, 1e400]}',
        b'{"id": "\\ud800"}',
        b'{"id": "x", "limit": 1e400}',
        b'{"id": "x", "limit": ' + b"9" * 5000 + b"}",
        b'{"id": "x", "id": "y"}',
        b'{"filter": {"must": [{"key": "' + b"k" * 100_000 + b'"}]}, "id": "x"}',
        b"null",
        b"[]",
        b'"text"',
    ],
    ids=lambda body: repr(body[:12]),
)
@pytest.mark.parametrize("route", ["query", "points/scroll", "query/batch"])
def test_no_json_whatever_it_holds_is_a_fault_of_the_service(
    client: TestClient, collection: str, body: bytes, route: str
) -> None:
    answer = client.post(f"{collection}/{route}", content=body, headers=JSON)
    assert answer.status_code < 500, answer.text
    if answer.status_code != 200:
        assert answer.headers["content-type"] == "application/problem+json"


def test_the_value_that_was_wrong_is_not_sent_back(client: TestClient, collection: str) -> None:
    answer = client.post(f"{collection}/points/scroll", json={"limit": "private words"})
    assert "private words" not in answer.text
    assert answer.json()["errors"] == [
        {"loc": ["body", "limit"], "code": "int_type", "detail": "Input should be a valid integer"}
    ]


def test_a_body_of_the_limit_is_taken_and_one_byte_more_is_not(make_client: Callable[..., TestClient]) -> None:
    client = make_client(max_body_bytes=1000)
    headers = {"content-type": "image/png"}
    assert client.post("/v1/embed", content=b"x" * 1000, headers=headers).status_code == 415
    for body in (b"x" * 1001, iter([b"x" * 600, b"x" * 401])):  # declared, and counted while it arrives
        answer = client.post("/v1/embed", content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-request-id"] == answer.json()["request_id"]


def test_a_bug_in_a_handler_is_one_500_in_the_common_shape(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object) -> None:
        raise RuntimeError("inner words")

    monkeypatch.setattr("service.library.library.Library.collections", broken)
    with capture_logs() as logs:
        answer = client.get("/v1/collections")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "inner words" not in answer.text
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert [line["event"] for line in logs] == ["failed", "request"]
    assert client.get("/livez").status_code == 200


@pytest.mark.parametrize("path", ["/v1/embed", "/v1/collections/c/points/p", "/v1/collections/c/points"])
def test_a_body_that_ends_early_is_nobody_s_fault_and_stores_nothing(
    client: TestClient, collection: str, path: str
) -> None:
    arriving = [{"type": "http.request", "body": b"\x89PNG", "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:  # noqa: ANN401 - an ASGI message
        return arriving.pop(0)

    async def send(message: Any) -> None:  # noqa: ANN401
        sent.append(message)

    kind = b"application/json" if path.endswith("points") else b"image/png"
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST" if path == "/v1/embed" else "PUT",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", kind), (b"content-length", b"1000")],
    }
    assert client.portal is not None
    with capture_logs() as logs:
        client.portal.call(client.app, scope, receive, send)
    assert sent[0]["status"] == 400
    assert [line["event"] for line in logs] == ["request"]
    assert client.post(f"{collection}/points/count", json={}).json() == {"count": 0}


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/collections/c/points/a%2Fb", "DELETE, GET, PATCH, PUT"),
        ("/v1/collections/c/clusterings", "GET, POST"),
        ("/v1/jobs/1", "DELETE, GET"),
        ("/livez", "GET"),
    ],
)
def test_405_names_every_method_of_the_path(client: TestClient, path: str, methods: str) -> None:
    answer = client.request("TRACE", path)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == methods


def test_every_operation_with_a_body_documents_how_its_receipt_can_fail(client: TestClient) -> None:
    operations = [each for item in client.get("/openapi.json").json()["paths"].values() for each in item.values()]
    with_body = [each for each in operations if "requestBody" in each]
    assert len(with_body) > 15
    assert all({"400", "408", "413", "503"} <= each["responses"].keys() for each in with_body)
