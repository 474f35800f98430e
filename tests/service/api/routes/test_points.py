from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import encoded, picture
from PIL import Image

from service.embedding.embedder import Answer, Embedder
from service.points import Stored

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from backbone import Artifact

PNG = {"content-type": "image/png"}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def url(collection: str, point: str) -> str:
    segment = quote(point, safe="")
    if segment in (".", ".."):  # a client would take these for steps in the path
        segment = segment.replace(".", "%2E")
    return f"{collection}/points/{segment}"


def unit(*values: float) -> list[float]:
    return [*values, *[0.0] * (32 - len(values))]


def npy(rows: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record how many images each call of the embedder got."""
    counts: list[int] = []
    plain = Embedder.embed

    def counting(self: Embedder, images: Sequence[bytes], thumbnails: bool) -> list[Answer]:
        counts.append(len(images))
        return plain(self, images, thumbnails=thumbnails)

    monkeypatch.setattr(Embedder, "embed", counting)
    return counts


@pytest.mark.parametrize(
    "point",
    [
        "a/b.png",
        "a/thumbnail",
        "../x",
        "scroll",
        "delete",
        "count",
        "a%2Fb",
        "%",
        "+ &?#;=",
        "ü/猫.png",
        ".",
        "..",
        "a//b",
        "x" * 512,
    ],
)
def test_an_id_of_any_characters_goes_in_and_comes_out(
    client: TestClient, collection: str, png: Callable[..., bytes], point: str
) -> None:
    put = client.put(url(collection, point), content=png(), headers=PNG)
    assert (put.status_code, put.json()) == (200, {"id": point, "status": "created"})
    assert client.get(url(collection, point)).json()["id"] == point
    assert client.get(f"{url(collection, point)}/thumbnail").status_code == 200
    assert client.patch(url(collection, point), json={"label": "l"}).json()["label"] == "l"
    assert [each["id"] for each in client.post(f"{collection}/points/scroll", json={}).json()["result"]] == [point]
    assert client.delete(url(collection, point)).status_code == 204
    assert client.get(url(collection, point)).status_code == 404


@pytest.mark.parametrize("point", ["x" * 513, "\n", "a\x00b", "\x7f"])
def test_an_id_outside_the_rule_is_422(
    client: TestClient, collection: str, png: Callable[..., bytes], point: str
) -> None:
    answer = client.put(url(collection, point), content=png(), headers=PNG)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_id")


def test_s24_the_same_image_again_is_not_embedded_again_and_updates_what_is_said(
    client: TestClient, collection: str, png: Callable[..., bytes], embedded: list[int]
) -> None:
    point = url(collection, "p")
    params = {"label": "cat", "payload": json.dumps({"n": 1})}
    assert client.put(point, params=params, content=png(), headers=PNG).json()["status"] == "created"
    again = client.put(point, params={"label": "dog"}, content=png(), headers=PNG)
    assert (again.status_code, again.json()["status"]) == (200, "unchanged")
    assert client.get(point).json() == {"id": "p", "label": "dog", "payload": {"n": 1}}
    assert embedded == [1]


def test_s24_other_content_under_the_id_is_409_unless_it_may_replace(
    client: TestClient, collection: str, png: Callable[..., bytes], embedded: list[int]
) -> None:
    point = url(collection, "p")
    client.put(point, params={"label": "cat"}, content=png(seed=1), headers=PNG)
    before = client.get(point, params={"with_vector": True}).json()
    refused = client.put(point, content=png(seed=2), headers=PNG)
    assert (refused.status_code, refused.json()["code"]) == (409, "point_conflict")
    assert client.get(point, params={"with_vector": True}).json() == before
    assert embedded == [1]  # a conflict costs no inference
    replaced = client.put(point, params={"replace": True}, content=png(seed=2), headers=PNG)
    assert replaced.json()["status"] == "replaced"
    after = client.get(point, params={"with_vector": True}).json()
    assert after["vector"] != before["vector"]


def test_a_point_deleted_while_it_is_put_again_is_embedded_after_all(
    client: TestClient, collection: str, png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.library.collection import Collection

    client.put(url(collection, "p"), content=png(), headers=PNG)
    plain = Collection.stored

    def stored_then_deleted(self: Collection, ids: Sequence[str]) -> dict[str, Stored]:
        found = plain(self, ids)
        self.delete(ids=ids)
        return found

    monkeypatch.setattr(Collection, "stored", stored_then_deleted)
    answer = client.put(url(collection, "p"), content=png(), headers=PNG)
    assert (answer.status_code, answer.json()["status"]) == (200, "created")


@pytest.mark.parametrize(
    ("params", "status"),
    [({"payload": "{"}, 400), ({"payload": "[1]"}, 400), ({"label": "a\nb"}, 422), ({"replace": "perhaps"}, 422)],
)
def test_what_is_wrong_about_the_options_is_said(
    client: TestClient, collection: str, png: Callable[..., bytes], params: dict[str, str], status: int
) -> None:
    assert client.put(url(collection, "p"), params=params, content=png(), headers=PNG).status_code == status
    assert client.post(f"{collection}/points/count", json={}).json() == {"count": 0}


def test_points_into_a_missing_collection_are_404(client: TestClient, png: Callable[..., bytes]) -> None:
    one = client.put("/v1/collections/none/points/p", content=png(), headers=PNG)
    many = client.put("/v1/collections/none/points", json={"points": [{"id": "p", "vector": unit(1)}]})
    for answer in (one, many):
        assert (answer.status_code, answer.json()["code"]) == (404, "collection_missing")


@pytest.mark.parametrize("keep", ["none", "thumbnail", "image"])
def test_what_is_kept_of_the_picture(client: TestClient, keep: str) -> None:
    assert client.put("/v1/collections/k", json={"keep": keep}).json()["keep"] == keep
    client.put("/v1/collections/k/points/p", content=encoded(picture(900, 600)), headers=PNG)
    answer = client.get("/v1/collections/k/points/p/thumbnail")
    if keep == "none":
        assert answer.status_code == 404
        return
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(answer.content)) as small:
        assert (small.format, small.size) == ("JPEG", (256, 171))


def test_many_vectors_and_images_in_one_request(client: TestClient, collection: str, png: Callable[..., bytes]) -> None:
    points = [
        {"id": "v", "vector": unit(3, 4), "label": "x", "payload": {"a": [1]}},
        {"id": "i", "image": b64(png())},
        {"id": "bad", "image": b64(b"no image")},
        {"id": "no64", "image": "?"},
    ]
    answer = client.put(f"{collection}/points", json={"points": points})
    assert answer.status_code == 200
    result = answer.json()["result"]
    assert [(each["id"], each.get("status"), each.get("error", {}).get("code")) for each in result] == [
        ("v", "created", None),
        ("i", "created", None),
        ("bad", None, "unsupported_image_type"),
        ("no64", None, "malformed_request"),
    ]
    stored = client.get(url(collection, "v"), params={"with_vector": True}).json()
    assert np.allclose(stored["vector"][:3], [0.6, 0.8, 0])
    assert (stored["label"], stored["payload"]) == ("x", {"a": [1]})
    again = client.put(f"{collection}/points", json={"points": [points[0], {**points[1], "image": b64(png(seed=9))}]})
    assert [each.get("status", each.get("error", {}).get("code")) for each in again.json()["result"]] == [
        "unchanged",
        "point_conflict",
    ]


@pytest.mark.parametrize(
    ("vector", "code"),
    [
        ("[0.0]", "dimension_mismatch"),
        (json.dumps(unit(0)), "invalid_vector"),
        (json.dumps(unit(1)).replace("1", "NaN"), "invalid_vector"),
        (json.dumps(unit(1)).replace("1", "Infinity"), "invalid_vector"),
        (json.dumps(unit(1)).replace("1", "1e300"), "invalid_vector"),
        ("[]", "invalid_request"),
        ('["1"]', "invalid_request"),
    ],
)
def test_an_invalid_vector_refuses_the_whole_request(
    client: TestClient, collection: str, png: Callable[..., bytes], vector: str, code: str, embedded: list[int]
) -> None:
    body = f'{{"points": [{{"id": "good", "image": "{b64(png())}"}}, {{"id": "bad", "vector": {vector}}}]}}'
    answer = client.put(f"{collection}/points", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert client.post(f"{collection}/points/count", json={}).json() == {"count": 0}
    assert embedded == []


def test_the_same_id_twice_in_one_request_is_400(client: TestClient, collection: str) -> None:
    points = [{"id": "p", "vector": unit(1)}, {"id": "p", "vector": unit(2)}]
    answer = client.put(f"{collection}/points", json={"points": points})
    assert (answer.status_code, answer.json()["code"]) == (400, "duplicate_id")


@pytest.mark.parametrize("point", [{"id": "p"}, {"id": "p", "vector": unit(1), "image": "AA=="}])
def test_a_point_has_either_a_vector_or_an_image(client: TestClient, collection: str, point: object) -> None:
    assert client.put(f"{collection}/points", json={"points": [point]}).status_code == 422


def test_multipart_images_go_with_a_json_part(client: TestClient, collection: str, png: Callable[..., bytes]) -> None:
    described = {"points": [{"id": "a", "label": "x"}, {"id": "b"}], "replace": True}
    files = [("files", ("1.png", png(seed=1))), ("files", ("2.png", b"no image"))]
    answer = client.put(f"{collection}/points", data={"points": json.dumps(described)}, files=files)
    assert [each.get("status", each.get("error", {}).get("code")) for each in answer.json()["result"]] == [
        "created",
        "unsupported_image_type",
    ]
    assert client.get(url(collection, "a")).json()["label"] == "x"


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_an_npy_matrix_goes_with_ids(client: TestClient, collection: str, dtype: str) -> None:
    rows = np.eye(3, 32, dtype=dtype)
    described = json.dumps({"points": [{"id": str(index)} for index in range(3)]})
    files = {"vectors": ("v.npy", npy(rows)), "points": ("points.json", described)}
    answer = client.put(f"{collection}/points", files=files)
    assert [each["status"] for each in answer.json()["result"]] == ["created"] * 3
    hits = client.post(f"{collection}/query", json={"vector": unit(0, 1), "limit": 1}).json()["result"]
    assert hits[0]["id"] == "1"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"\x93NUMPY", 400),
        (npy(np.eye(2, 32))[:-1], 400),
        (npy(np.eye(2, 32)).replace(b"(2, 32)", b"(9, 32)"), 400),
        (b"PK\x03\x04", 400),
        (npy(np.eye(3, 32)), 422),
        (npy(np.eye(2, 31)), 422),
        (npy(np.zeros((2, 32))), 422),
        (npy(np.full((2, 32), np.nan)), 422),
        (npy(np.ones(32)), 422),
        (npy(np.ones((2, 32), dtype=np.int64)), 422),
    ],
)
def test_an_npy_file_that_does_not_fit_refuses_the_whole_request(
    client: TestClient, collection: str, content: bytes, status: int
) -> None:
    files = {"vectors": ("v.npy", content), "points": ("p", '{"points": [{"id": "a"}, {"id": "b"}]}')}
    assert client.put(f"{collection}/points", files=files).status_code == status
    assert client.post(f"{collection}/points/count", json={}).json() == {"count": 0}


def test_a_pickled_npy_is_never_unpickled(client: TestClient, collection: str) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (threading.main_thread, ())

    trap = np.empty((1, 1), dtype=object)
    trap[0, 0] = Trap()
    file = io.BytesIO()
    np.save(file, trap, allow_pickle=True)
    files = {"vectors": ("v.npy", file.getvalue()), "points": ("p", '{"points": [{"id": "a"}]}')}
    assert client.put(f"{collection}/points", files=files).status_code == 422


def test_vectors_of_another_model_are_409(client: TestClient, collection: str, tiny_artifact: Artifact) -> None:
    points = [{"id": "p", "vector": unit(1)}]
    for fingerprint, status in ((tiny_artifact.fingerprint, 200), (tiny_artifact.fingerprint_for("mean"), 409)):
        answer = client.put(f"{collection}/points", json={"points": points, "fingerprint": fingerprint})
        assert answer.status_code == status
        query = client.post(f"{collection}/query", json={"vector": unit(1), "fingerprint": fingerprint})
        assert query.status_code == status


def test_a_collection_of_a_model_that_is_not_loaded_takes_vectors_and_no_images(
    make_client: Callable[..., TestClient], other_artifact: Artifact, png: Callable[..., bytes]
) -> None:
    first = make_client()
    first.put("/v1/collections/c")
    first.put("/v1/collections/c/points/p", content=png(), headers=PNG)
    first.__exit__(None, None, None)
    client = make_client(artifact=other_artifact.path)
    described = client.get("/v1/collections/c").json()
    assert described["model_loaded"] is False
    image = client.put("/v1/collections/c/points/q", content=png(), headers=PNG)
    query = client.post("/v1/collections/c/query", content=png(), headers=PNG)
    made_again = client.put("/v1/collections/c")
    for answer in (image, query, made_again):
        assert (answer.status_code, answer.json()["code"]) == (409, "fingerprint_mismatch")
    points = {"points": [{"id": "v", "vector": unit(1)}], "fingerprint": described["fingerprint"]}
    assert client.put("/v1/collections/c/points", json=points).json()["result"][0]["status"] == "created"
    assert client.post("/v1/collections/c/query", json={"id": "p"}).json()["result"][0]["id"] == "v"


def test_more_points_or_images_than_a_request_may_have_are_413(
    make_client: Callable[..., TestClient], png: Callable[..., bytes]
) -> None:
    client = make_client(max_request_points=3, max_request_images=2)
    client.put("/v1/collections/c")
    vectors = [{"id": str(index), "vector": unit(1)} for index in range(4)]
    images = [{"id": f"i{index}", "image": b64(png())} for index in range(3)]
    for points, status in ((vectors[:3], 200), (vectors, 413), (images[:2], 200), (images, 413)):
        assert client.put("/v1/collections/c/points", json={"points": points}).status_code == status
    ids = [str(index) for index in range(4)]
    assert client.post("/v1/collections/c/points/delete", json={"ids": ids}).status_code == 413
    assert client.post("/v1/collections/c/points/delete", json={"ids": ids[:3]}).json() == {"deleted": 3}


def test_patch_changes_what_it_names_and_null_removes(client: TestClient, collection: str) -> None:
    point = {"id": "p", "vector": unit(1), "label": "x", "payload": {"a": 1}}
    client.put(f"{collection}/points", json={"points": [point]})
    assert client.patch(url(collection, "p"), json={}).json() == {"id": "p", "label": "x", "payload": {"a": 1}}
    assert client.patch(url(collection, "p"), json={"label": None}).json()["label"] is None
    assert client.patch(url(collection, "p"), json={"payload": {"b": 2}}).json()["payload"] == {"b": 2}
    assert client.patch(url(collection, "p"), json={"lable": "y"}).status_code == 422
    assert client.patch(url(collection, "q"), json={"label": "y"}).status_code == 404
    assert client.delete(url(collection, "q")).status_code == 404


def test_scroll_pages_through_everything_once(client: TestClient, collection: str) -> None:
    points = [{"id": f"{index:02d}", "vector": unit(1, index), "label": f"l{index % 2}"} for index in range(25)]
    client.put(f"{collection}/points", json={"points": points})
    seen, cursor = [], None
    while True:
        page = client.post(f"{collection}/points/scroll", json={"limit": 10, "cursor": cursor}).json()
        seen += [each["id"] for each in page["result"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == [point["id"] for point in points]
    of_label = {"filter": {"must": [{"key": "label", "match": {"value": "l1"}}]}}
    assert client.post(f"{collection}/points/count", json=of_label).json() == {"count": 12}
    assert client.post(f"{collection}/points/delete", json=of_label).json() == {"deleted": 12}
    assert client.post(f"{collection}/points/count").json() == {"count": 13}
    with_vector = client.post(f"{collection}/points/scroll", json={"limit": 1, "with_vector": True}).json()["result"]
    assert len(with_vector[0]["vector"]) == 32


def test_collections_are_made_listed_and_dropped(client: TestClient, tiny_artifact: Artifact) -> None:
    assert client.get("/v1/collections").json() == {"result": []}
    made = client.put("/v1/collections/b", json={"keep": "image", "fingerprint": tiny_artifact.fingerprint})
    assert (made.status_code, made.json()["keep"], made.json()["count"]) == (201, "image", 0)
    assert client.put("/v1/collections/b").status_code == 200
    assert client.put("/v1/collections/b", json={"keep": "none"}).status_code == 409
    assert client.put("/v1/collections/a").status_code == 201
    assert [each["name"] for each in client.get("/v1/collections").json()["result"]] == ["a", "b"]
    assert client.delete("/v1/collections/b").status_code == 204
    assert client.get("/v1/collections/b").status_code == 404
    assert client.delete("/v1/collections/b").status_code == 404


def test_what_was_answered_is_there_after_a_restart(
    make_client: Callable[..., TestClient], png: Callable[..., bytes]
) -> None:
    first = make_client()
    first.put("/v1/collections/c")
    first.put("/v1/collections/c/points/p", params={"label": "x"}, content=png(), headers=PNG)
    before = first.get("/v1/collections/c/points/p", params={"with_vector": True}).json()
    first.__exit__(None, None, None)
    assert make_client().get("/v1/collections/c/points/p", params={"with_vector": True}).json() == before


def test_a_put_with_no_body_and_no_headers_about_one_makes_a_collection(client: TestClient) -> None:
    request = client.build_request("PUT", "/v1/collections/bare")
    request.headers.pop("content-length", None)  # as curl sends it
    assert client.send(request).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        {"filter": {}},
        {"filter": {"must": []}},
        {"filter": {"should": []}},
        {"filter": {"must_not": []}},
        {"filter": {"must": [{"should": []}]}},
        {"filter": {"must_not": [{"key": "a", "match": {"any": []}}]}},
        {"filter": {"must_not": [{"ids": []}]}},
        {"filter": {"mustt": [{"exists": "a"}]}},
        {"filter": {"must": None}},
        {"filter": None},
        {"filter": None, "ids": None},
        {"ids": []},
        {"ids": ["0"], "filter": {"must": [{"exists": "a"}]}},
        {},
    ],
)
def test_u05_what_names_no_condition_deletes_nothing(client: TestClient, collection: str, body: dict[str, Any]) -> None:
    points = [{"id": f"{i}", "vector": unit(1, i), "payload": {"a": i}} for i in range(3)]
    client.put(f"{collection}/points", json={"points": points})
    answer = client.post(f"{collection}/points/delete", json=body)
    assert answer.status_code == 422
    assert client.post(f"{collection}/points/count").json() == {"count": 3}
    if body.get("filter") == {}:  # asking for all goes on
        assert client.post(f"{collection}/points/count", json=body).json() == {"count": 3}
        assert len(client.post(f"{collection}/points/scroll", json=body).json()["result"]) == 3
        assert len(client.post(f"{collection}/query", json={"id": "0", **body}).json()["result"]) == 2
    one = {"filter": {"must_not": [{"key": "a", "match": {"any": [1, 2]}}]}}
    assert client.post(f"{collection}/points/delete", json=one).json() == {"deleted": 1}
