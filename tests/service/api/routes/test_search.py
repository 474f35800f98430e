from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from backbone.vote import vote

if TYPE_CHECKING:
    from starlette.testclient import TestClient

Floats = NDArray[np.float32]
PNG = {"content-type": "image/png"}


@pytest.fixture
def rows() -> Floats:
    vectors = np.random.default_rng(0).normal(size=(60, 32)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def filled(client: TestClient, collection: str, rows: Floats) -> str:
    points = [
        {"id": f"p{index}", "vector": row.tolist(), "label": f"l{index % 3}", "payload": {"n": index}}
        for index, row in enumerate(rows)
    ]
    client.put(f"{collection}/points", json={"points": points}).raise_for_status()
    return collection


@pytest.fixture
def pictures(client: TestClient, png: Callable[..., bytes]) -> str:
    client.put("/v1/collections/pictures")
    for seed in range(5):
        path = f"/v1/collections/pictures/points/{seed}"
        client.put(path, params={"label": f"l{seed}"}, content=png(seed=seed), headers=PNG).raise_for_status()
    return "/v1/collections/pictures"


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["result"]]


def test_a_query_by_vector_agrees_with_brute_force(client: TestClient, filled: str, rows: Floats) -> None:
    query = rows[7] + 0.1
    cosines = rows @ (query / np.linalg.norm(query))
    answer = client.post(f"{filled}/query", json={"vector": query.tolist(), "limit": 10, "exact": True})
    assert ids(answer) == [f"p{index}" for index in np.argsort(-cosines)[:10]]
    hit = answer.json()["result"][0]
    assert hit["score"] == pytest.approx(float(cosines.max()), abs=1e-5)
    assert set(hit) == {"id", "score", "label", "payload"}
    assert "search;dur=" in answer.headers["server-timing"]


def test_a_query_by_id_leaves_that_point_out(client: TestClient, filled: str) -> None:
    found = ids(client.post(f"{filled}/query", json={"id": "p3", "limit": 1000}))
    assert len(found) == 59
    assert "p3" not in found


def test_a_query_by_image_finds_that_image_in_both_bodies(
    client: TestClient, pictures: str, png: Callable[..., bytes]
) -> None:
    raw = client.post(f"{pictures}/query", params={"limit": 2}, content=png(seed=3), headers=PNG)
    text = base64.b64encode(png(seed=3)).decode()
    encoded = client.post(f"{pictures}/query", json={"image": text, "limit": 2})
    assert raw.json() == encoded.json()
    assert ids(raw)[0] == "3"
    assert raw.json()["result"][0]["score"] == pytest.approx(1.0, abs=1e-5)


def test_the_options_mean_the_same_in_the_url_and_in_json(
    client: TestClient, pictures: str, png: Callable[..., bytes]
) -> None:
    condition = {"must_not": [{"key": "label", "match": {"value": "l3"}}]}
    options = {"limit": 3, "with_payload": False, "with_vector": True, "score_threshold": -1.0}
    raw = client.post(
        f"{pictures}/query", params={**options, "filter": json.dumps(condition)}, content=png(seed=3), headers=PNG
    )
    text = base64.b64encode(png(seed=3)).decode()
    encoded = client.post(f"{pictures}/query", json={**options, "filter": condition, "image": text})
    assert raw.json() == encoded.json()
    assert "3" not in ids(raw)
    assert set(raw.json()["result"][0]) == {"id", "score", "label", "vector"}


@pytest.mark.parametrize("limit", [1, 60, 61, 1000])
def test_a_limit_is_capped_at_what_is_there(client: TestClient, filled: str, rows: Floats, limit: int) -> None:
    answer = client.post(f"{filled}/query", json={"vector": rows[0].tolist(), "limit": limit})
    assert len(ids(answer)) == min(limit, 60)


@pytest.mark.parametrize(
    "change",
    [{"limit": value} for value in (0, -1, 1001, 10**9, "5", 1.5, None, True)]
    + [{"filter": {"must": 1}}, {"score_threshold": 2}, {"id": "p0"}, {"unknown": 1}, {"with_payload": "yes"}],
)
def test_a_wrong_option_is_422(client: TestClient, filled: str, rows: Floats, change: dict[str, Any]) -> None:
    answer = client.post(f"{filled}/query", json={"vector": rows[0].tolist(), **change})
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": "x"}, {"score_threshold": 2}])
def test_a_wrong_option_in_the_url_is_422(
    client: TestClient, pictures: str, png: Callable[..., bytes], params: dict[str, Any]
) -> None:
    assert client.post(f"{pictures}/query", params=params, content=png(), headers=PNG).status_code == 422


def test_a_target_is_needed(client: TestClient, filled: str) -> None:
    assert client.post(f"{filled}/query", json={"limit": 3}).status_code == 422


def test_an_empty_collection_answers_a_query_with_nothing(client: TestClient, collection: str) -> None:
    assert client.post(f"{collection}/query", json={"vector": [1.0] * 32}).json() == {"result": []}


def test_an_image_that_is_refused_answers_its_own_status(client: TestClient, collection: str) -> None:
    raw = client.post(f"{collection}/query", content=b"no image", headers=PNG)
    encoded = client.post(f"{collection}/query", json={"image": base64.b64encode(b"no image").decode()})
    assert raw.status_code == encoded.status_code == 415
    assert client.post(f"{collection}/query", json={"image": "?"}).status_code == 400


def test_a_batch_answers_each_query_as_if_it_were_alone(
    client: TestClient, filled: str, rows: Floats, png: Callable[..., bytes]
) -> None:
    text = base64.b64encode(png()).decode()
    queries: list[dict[str, Any]] = [
        {"vector": rows[0].tolist(), "limit": 3},
        {"id": "p1", "limit": 3},
        {"image": text, "limit": 5, "with_payload": False},
        {"vector": rows[2].tolist(), "limit": 3, "filter": {"must": [{"key": "label", "match": {"value": "l2"}}]}},
        {"id": "p5", "limit": 3, "with_vector": True},
    ]
    batch = client.post(f"{filled}/query/batch", json={"queries": queries}).json()["results"]
    alone = [client.post(f"{filled}/query", json=query).json()["result"] for query in queries]
    for found, expected in zip(batch, alone, strict=True):
        assert [hit["id"] for hit in found] == [hit["id"] for hit in expected]
        assert [set(hit) for hit in found] == [set(hit) for hit in expected]
        assert np.allclose([hit["score"] for hit in found], [hit["score"] for hit in expected], atol=1e-6)


def test_a_batch_with_refused_images_names_them(client: TestClient, filled: str, png: Callable[..., bytes]) -> None:
    good, bad = (base64.b64encode(each).decode() for each in (png(), b"no image"))
    answer = client.post(f"{filled}/query/batch", json={"queries": [{"image": good}, {"image": bad}]})
    assert (answer.status_code, answer.json()["code"]) == (422, "items_refused")
    assert [(each["index"], each["code"]) for each in answer.json()["errors"]] == [(1, "unsupported_image_type")]


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (7, 1.0), (1000, 0.07)])
def test_classification_is_the_vote_that_training_logs(
    client: TestClient, filled: str, rows: Floats, k: int, temperature: float
) -> None:
    query = rows[:1] + 0.05
    query = query / np.linalg.norm(query)
    scores = query @ rows.T
    nearest = np.argsort(-scores)[:, : min(k, 60)]
    labels = nearest % 3
    expected = vote(np.take_along_axis(scores, nearest, axis=1), labels, 3, temperature)[0]
    options = {"vector": query[0].tolist(), "k": k, "temperature": temperature}
    answer = client.post(f"{filled}/classify", json=options).json()
    found = {each["label"]: each["probability"] for each in answer["classes"]}
    for index in range(3):
        assert found.get(f"l{index}", 0.0) == pytest.approx(float(expected[index]), abs=1e-5)
    assert answer["label"] == f"l{int(np.argmax(expected))}"
    assert answer["probability"] == pytest.approx(float(expected.max()), abs=1e-5)
    assert [each["id"] for each in answer["neighbours"]] == [f"p{index}" for index in nearest[0]]


def test_a_stored_point_has_no_vote_on_itself(client: TestClient, filled: str) -> None:
    answer = client.post(f"{filled}/classify", json={"id": "p3", "k": 1000}).json()
    voters = [each["id"] for each in answer["neighbours"]]
    assert len(voters) == 59
    assert "p3" not in voters


def test_a_vote_that_is_not_sure_has_no_label(client: TestClient, filled: str, rows: Floats) -> None:
    options = {"vector": rows[0].tolist(), "k": 60, "temperature": 1.0}
    sure = client.post(f"{filled}/classify", json=options).json()
    for reject_below, label in ((sure["probability"] - 1e-6, sure["label"]), (sure["probability"] + 1e-6, None)):
        answer = client.post(f"{filled}/classify", json={**options, "reject_below": reject_below}).json()
        assert answer["label"] == label
        assert answer["classes"] == sure["classes"]


def test_an_image_is_classified_with_options_in_the_url(
    client: TestClient, pictures: str, png: Callable[..., bytes]
) -> None:
    condition = json.dumps({"must": [{"key": "label", "match": {"any": ["l1", "l2"]}}]})
    answer = client.post(f"{pictures}/classify", params={"k": 1, "filter": condition}, content=png(seed=2), headers=PNG)
    assert answer.json()["label"] == "l2"
    assert client.post(f"{pictures}/classify", params={"k": 0}, content=png(), headers=PNG).status_code == 422


@pytest.mark.parametrize("change", [{"k": 0}, {"k": 1001}, {"k": "5"}, {"temperature": 0}, {"reject_below": 1.1}])
def test_a_wrong_option_of_a_vote_is_422(client: TestClient, filled: str, rows: Floats, change: dict[str, Any]) -> None:
    assert client.post(f"{filled}/classify", json={"vector": rows[0].tolist(), **change}).status_code == 422


def test_without_a_labelled_point_there_is_no_vote(client: TestClient, collection: str) -> None:
    client.put(f"{collection}/points", json={"points": [{"id": "p", "vector": [1.0] * 32}]})
    answer = client.post(f"{collection}/classify", json={"vector": [1.0] * 32})
    assert (answer.status_code, answer.json()["code"]) == (409, "collection_empty")


def test_u18_a_threshold_of_1_finds_every_copy(client: TestClient, filled: str, rows: Floats) -> None:
    copies = [{"id": f"c{i}", "vector": row.tolist(), "label": "copy"} for i, row in enumerate(rows)]
    client.put(f"{filled}/points", json={"points": copies}).raise_for_status()
    for threshold in (1.0, 0.9999999):
        asked = [{"vector": row.tolist(), "limit": 2, "score_threshold": threshold} for row in rows]
        for i, query in enumerate(asked[:20]):
            assert ids(client.post(f"{filled}/query", json=query)) == [f"p{i}", f"c{i}"]
        answers = client.post(f"{filled}/query/batch", json={"queries": asked}).json()["results"]
        assert [[hit["score"] for hit in hits] for hits in answers] == [[1.0, 1.0]] * 60
    by_id = client.post(f"{filled}/query", json={"id": "p3", "score_threshold": 1.0})
    assert ids(by_id) == ["c3"]
    neighbours = client.post(f"{filled}/classify", json={"id": "p3", "k": 1}).json()["neighbours"]
    assert neighbours == [{"id": "c3", "score": 1.0, "label": "copy"}]
    found = client.post(f"{filled}/duplicates", params={"wait_s": 30}, json={"threshold": 1.0}).json()
    assert found["total"] == 60
    assert {group["score"] for group in found["groups"]} == {1.0}
    opposite = {"vector": (-rows[0]).tolist(), "limit": 1000, "score_threshold": -1.0}
    hits = client.post(f"{filled}/query", json=opposite).json()["result"]
    assert len(hits) == 120
    assert [hit["score"] for hit in hits[-2:]] == [-1.0, -1.0]


def test_u18_a_picture_is_found_with_a_threshold_of_1_however_it_was_put(
    client: TestClient, collection: str, png: Callable[..., bytes]
) -> None:
    images = [base64.b64encode(png(seed=seed)).decode() for seed in range(12)]
    client.put(
        f"{collection}/points", json={"points": [{"id": f"a{i}", "image": each} for i, each in enumerate(images)]}
    )
    for i in range(12):
        client.put(f"{collection}/points/b{i}", content=png(seed=i), headers=PNG).raise_for_status()
    for i in range(12):
        options = {"limit": 2, "score_threshold": 1.0}
        assert ids(client.post(f"{collection}/query", params=options, content=png(seed=i), headers=PNG)) == [
            f"a{i}",
            f"b{i}",
        ]


def test_u21_fields_inside_of_objects_and_dates_can_be_asked_for(
    client: TestClient, collection: str, rows: Floats
) -> None:
    points = [
        {
            "id": f"{i}",
            "vector": rows[i // 2].tolist(),
            "payload": {"meta": {"split": "train" if i % 2 else "test"}, "taken": f"2024-0{1 + i}-01T00:00:00+01:00"},
        }
        for i in range(6)
    ]
    client.put(f"{collection}/points", json={"points": points}).raise_for_status()
    nested = {"must": [{"key": "meta.split", "match": {"value": "train"}}]}
    dated = {"must": [{"key": "taken", "range": {"gte": "2024-02-29T23:00:00Z", "lt": "2024-05-01"}}]}
    for asked, expected in ((nested, {"1", "3", "5"}), (dated, {"2", "3", "4"})):
        assert (
            set(ids(client.post(f"{collection}/query", json={"vector": rows[0].tolist(), "filter": asked}))) == expected
        )
        assert client.post(f"{collection}/points/count", json={"filter": asked}).json() == {"count": 3}
        assert set(ids(client.post(f"{collection}/points/scroll", json={"filter": asked}))) == expected
    across = {"threshold": 1.0, "key": "meta.split", "across": ["train", "test"]}
    assert client.post(f"{collection}/duplicates", params={"wait_s": 30}, json=across).json()["total"] == 3
    for wrong in ({"gte": "2024-02-30"}, {"gte": "2024-01-01", "lt": 5}, {"gte": "soon"}):
        refused = client.post(
            f"{collection}/points/count", json={"filter": {"must": [{"key": "taken", "range": wrong}]}}
        )
        assert refused.status_code == 422
        assert "date" in refused.json()["detail"]
    assert client.post(f"{collection}/points/delete", json={"filter": dated}).json() == {"deleted": 3}
    client.put(
        f"{collection}/points",
        json={"points": [{"id": "7", "vector": rows[7].tolist(), "payload": points[1]["payload"]}]},
    )
    assert client.post(f"{collection}/points/count", json={"filter": nested}).json() == {"count": 3}
