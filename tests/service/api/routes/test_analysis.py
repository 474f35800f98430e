from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from starlette.testclient import TestClient


@pytest.fixture
def photos(client: TestClient, collection: str) -> str:
    """Put twenty strangers, three near-copies of the first and one of the second, half of them for training."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 32))
    near = [vectors[i] + 0.01 * rng.normal(size=32) for i in (0, 0, 0, 1)]
    points = [
        {
            "id": f"p{i}",
            "label": "train" if i % 2 else "test",
            "vector": vector.tolist(),
            "payload": {"split": i % 2, "weird": i == 19},
        }
        for i, vector in enumerate([*vectors, *near])
    ]
    client.put(f"{collection}/points", json={"points": points}).raise_for_status()
    return collection


def found(client: TestClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def test_near_duplicates_are_grouped(client: TestClient, photos: str) -> None:
    answer = found(client, f"{photos}/duplicates", {"threshold": 0.98})
    first, second = answer["groups"]
    assert (first["ids"], first["size"]) == (["p0", "p20", "p21", "p22"], 4)
    assert first["labels"] == {"test": 3, "train": 1}
    assert (second["ids"], second["size"]) == (["p1", "p23"], 2)
    assert 0.98 < first["score"] <= 1
    assert (answer["total"], answer["duplicates"], answer["points"]) == (2, 6, 24)
    assert (answer["threshold"], answer["capped"]) == (0.98, 0)
    assert len(found(client, f"{photos}/duplicates", {"limit": 1})["groups"]) == 1
    assert found(client, f"{photos}/duplicates", {"exact": True, "threshold": 0.98}) == answer


@pytest.mark.parametrize(
    "sides", [{"across": ["train", "test"]}, {"across": ["test", "train"]}, {"across": [0, 1], "key": "split"}]
)
def test_leaks_between_two_values_are_found(client: TestClient, photos: str, sides: dict[str, Any]) -> None:
    [leak] = found(client, f"{photos}/duplicates", {"threshold": 0.98, **sides})["groups"]
    assert leak["ids"] == ["p0", "p20", "p21", "p22"]  # the test pictures, each through its copy for training


@pytest.mark.parametrize("sides", [{"across": ["train", "nobody"]}, {"across": [0, 1], "key": "nowhere"}])
def test_a_side_without_points_has_no_duplicates(client: TestClient, photos: str, sides: dict[str, Any]) -> None:
    assert found(client, f"{photos}/duplicates", {"threshold": 0.5, **sides})["groups"] == []


def test_those_that_stand_alone_come_first(client: TestClient, photos: str) -> None:
    answer = found(client, f"{photos}/outliers", {"k": 1, "limit": 30})
    scores = [each["score"] for each in answer["result"]]
    assert scores == sorted(scores, reverse=True)
    assert {each["id"] for each in answer["result"][-6:]} == {"p0", "p1", "p20", "p21", "p22", "p23"}
    assert (len(scores), answer["points"]) == (24, 24)
    assert {each["label"] for each in answer["result"]} == {"train", "test"}
    assert len(found(client, f"{photos}/outliers", {"limit": 5})["result"]) == 5
    assert found(client, f"{photos}/outliers", {"k": 1, "limit": 30, "exact": True}) == answer


@pytest.mark.parametrize(
    "body",
    [
        {"threshold": 2},
        {"threshold": -2},
        {"threshold": "0.9"},
        {"threshold": None},
        {"across": ["train"]},
        {"across": ["a", "b", "c"]},
        {"across": ["a", "a"]},
        {"across": [None, "a"]},
        {"across": [{}, "a"]},
        {"across": "train"},
        {"across": ["a", "b"], "key": ""},
        {"limit": 0},
        {"limit": 1001},
        {"exact": 1},
        {"unknown": 1},
    ],
)
def test_wrong_options_of_duplicates_are_422(client: TestClient, photos: str, body: dict[str, Any]) -> None:
    assert client.post(f"{photos}/duplicates", json=body).status_code == 422


@pytest.mark.parametrize("body", [*({"k": k} for k in (0, -1, 10**9, "5", 1.5, None)), {"limit": 0}, {"threshold": 1}])
def test_wrong_options_of_outliers_are_422(client: TestClient, photos: str, body: dict[str, Any]) -> None:
    assert client.post(f"{photos}/outliers", json=body).status_code == 422


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_threshold_that_is_no_number_is_refused(client: TestClient, photos: str, number: str) -> None:
    answer = client.post(
        f"{photos}/duplicates", content=f'{{"threshold": {number}}}', headers={"content-type": "application/json"}
    )
    assert answer.status_code in (400, 422)


@pytest.mark.parametrize("what", ["duplicates", "outliers"])
def test_an_empty_collection_has_nothing_to_compare(client: TestClient, collection: str, what: str) -> None:
    answer = client.post(f"{collection}/{what}", json={})
    assert (answer.status_code, answer.json()["code"]) == (409, "collection_empty")
    assert client.post(f"/v1/collections/none/{what}", json={}).status_code == 404


@pytest.mark.parametrize("what", ["duplicates", "outliers"])
def test_one_point_is_answered(client: TestClient, collection: str, what: str) -> None:
    client.put(f"{collection}/points", json={"points": [{"id": "a", "vector": [1.0] * 32}]}).raise_for_status()
    answer = found(client, f"{collection}/{what}", {})
    assert answer["points"] == 1
    assert answer.get("groups", answer.get("result")) == []


@pytest.mark.parametrize("what", ["duplicates", "outliers"])
def test_what_takes_longer_is_a_job(client: TestClient, photos: str, what: str) -> None:
    started = client.post(f"{photos}/{what}", params={"wait_s": 0}, json={})
    assert started.status_code in (200, 202)
    if started.status_code == 202:
        job = client.app.state.service.library.jobs.wait(started.json()["job"], 20)  # type: ignore[attr-defined]
        assert (job.kind, job.state) == (what, "done")
        assert client.get(f"/v1/jobs/{job.id}").json()["result"]["points"] == 24
