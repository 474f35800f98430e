from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from service.errors import StorageFailed

if TYPE_CHECKING:
    from starlette.testclient import TestClient

PNG = {"content-type": "image/png"}
TIMEOUT_S = 20.0


@pytest.fixture
def grouped(client: TestClient, collection: str) -> str:
    """Put three clear groups of ten points."""
    noise = np.random.default_rng(0).normal(scale=0.05, size=(30, 32))
    points = [
        {
            "id": f"{index % 3}-{index}",
            "label": f"l{index % 3}",
            "vector": (np.eye(32)[index % 3] + noise[index]).tolist(),
        }
        for index in range(30)
    ]
    client.put(f"{collection}/points", json={"points": points}).raise_for_status()
    return collection


def make(client: TestClient, collection: str, **options: object) -> str:
    answer = client.post(f"{collection}/clusterings", json={"k": 3, **options})
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["clustering"]
    return found


def test_clear_groups_are_found_and_described(client: TestClient, grouped: str) -> None:
    made = make(client, grouped, seed=1)
    [listed] = client.get(f"{grouped}/clusterings").json()["result"]
    assert (listed["clustering"], listed["method"], listed["clusters"], listed["points"]) == (made, "kmeans", 3, 30)
    clusters = client.get(f"{grouped}/clusterings/{made}/clusters").json()["result"]
    assert [each["size"] for each in clusters] == [10, 10, 10]
    for each in clusters:
        [(label, count)] = each["labels"].items()
        assert count == 10
        assert 0.9 < each["cohesion"] <= 1
        assert each["medoid"] in each["representatives"]
        assert {id_[0] for id_ in each["representatives"]} == {label[1]}
        assert each["name"] is None


def test_the_points_of_a_cluster_come_page_by_page(client: TestClient, grouped: str) -> None:
    path = f"{grouped}/clusterings/{make(client, grouped)}/clusters/0/points"
    seen: list[str] = []
    params: dict[str, Any] = {"limit": 4}
    while True:
        page = client.get(path, params=params).json()
        seen += [each["id"] for each in page["result"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert len(seen) == len(set(seen)) == 10
    assert len({each[0] for each in seen}) == 1
    for wrong in ({"limit": 0}, {"limit": 1001}, {"cursor": "x"}):
        assert client.get(path, params=wrong).status_code == 422


def test_a_cluster_gets_a_name_and_loses_it(client: TestClient, grouped: str) -> None:
    path = f"{grouped}/clusterings/{make(client, grouped)}/clusters/1"
    assert client.patch(path, json={"name": "cats"}).json()["name"] == "cats"
    assert client.patch(path, json={"name": None}).json()["name"] is None
    assert client.patch(path, json={}).status_code == 422
    assert client.patch(path, json={"name": ""}).status_code == 422


def test_the_nearest_cluster_is_found_by_vector_id_and_image(
    client: TestClient, grouped: str, png: Callable[..., bytes]
) -> None:
    path = f"{grouped}/clusterings/{make(client, grouped)}/query"
    by_vector = client.post(path, json={"vector": np.eye(32)[2].tolist()}).json()["result"]
    by_id = client.post(path, json={"id": "2-2", "limit": 1}).json()["result"]
    assert len(by_vector) == 3
    assert by_vector[0]["cluster"] == by_id[0]["cluster"]
    assert by_vector[0]["score"] > 0.95
    assert {each[0] for each in by_vector[0]["representatives"]} == {"2"}
    by_image = client.post(path, params={"limit": 2}, content=png(), headers=PNG)
    assert len(by_image.json()["result"]) == 2


@pytest.mark.parametrize(
    "path", ["/clusterings/99/clusters", "/clusterings/x/clusters", "/clusterings/99/clusters/0/points"]
)
def test_an_unknown_clustering_is_404(client: TestClient, grouped: str, path: str) -> None:
    assert client.get(f"{grouped}{path}").status_code == 404


def test_an_unknown_cluster_is_404(client: TestClient, grouped: str) -> None:
    path = f"{grouped}/clusterings/{make(client, grouped)}/clusters"
    assert client.get(f"{path}/3/points").json()["code"] == "cluster_missing"
    assert client.patch(f"{path}/3", json={"name": "x"}).status_code == 404
    assert client.patch(f"{path}/{2**63}", json={"name": "x"}).status_code == 422


def test_the_number_of_clusters_is_recommended_and_the_sweep_is_kept(client: TestClient, grouped: str) -> None:
    make(client, grouped, k="auto")
    [listed] = client.get(f"{grouped}/clusterings").json()["result"]
    assert (listed["clusters"], listed["k"], listed["sample"], listed["min_size"]) == (3, "auto", 30, None)
    assert [each["k"] for each in listed["sweep"]] == [2, 3, 4, 6, 9, 10]
    assert max(listed["sweep"], key=lambda each: each["score"])["k"] == 3


def test_dense_groups_are_found_without_a_number_and_noise_is_listed(client: TestClient, grouped: str) -> None:
    far = [{"id": "far", "vector": np.eye(32)[20].tolist()}]
    client.put(f"{grouped}/points", json={"points": far}).raise_for_status()
    answer = client.post(f"{grouped}/clusterings", params={"wait_s": 60}, json={"method": "hdbscan"})
    made = answer.json()["clustering"]
    [listed] = client.get(f"{grouped}/clusterings").json()["result"]
    assert (listed["method"], listed["clusters"], listed["k"], listed["min_size"]) == ("hdbscan", 3, None, 5)
    noise = client.get(f"{grouped}/clusterings/{made}/outliers").json()
    assert noise["next_cursor"] is None
    assert len(noise["result"]) == listed["noise"] >= 1
    assert noise["result"][0]["id"] == "far"
    assert {each["cluster"] for each in noise["result"]} == {None}


def test_what_fits_worst_is_listed_page_by_page(client: TestClient, grouped: str) -> None:
    path = f"{grouped}/clusterings/{make(client, grouped)}/outliers"
    seen: list[dict[str, Any]] = []
    params: dict[str, Any] = {"limit": 7}
    while True:
        page = client.get(path, params=params).json()
        seen += page["result"]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert len({each["id"] for each in seen}) == len(seen) == 30
    assert [each["score"] for each in seen] == sorted(each["score"] for each in seen)
    assert {"id", "score", "cluster", "label", "payload"} == seen[0].keys()
    of_one = client.get(path, params={"cluster": 1}).json()["result"]
    assert [each["id"] for each in of_one] == [each["id"] for each in seen if each["cluster"] == 1]
    assert client.get(path, params={"cluster": 3}).json()["code"] == "cluster_missing"
    for wrong in ({"limit": 0}, {"cursor": "x"}, {"cluster": -1}, {"cluster": 1, "cursor": params["cursor"]}):
        assert client.get(path, params=wrong).status_code == 422


def test_a_clustering_is_deleted(client: TestClient, grouped: str) -> None:
    path = f"{grouped}/clusterings/{make(client, grouped)}"
    assert client.delete(path).status_code == 204
    assert client.get(f"{grouped}/clusterings").json()["result"] == []
    for gone in (client.delete(path), client.get(f"{path}/clusters"), client.get(f"{path}/outliers")):
        assert (gone.status_code, gone.json()["code"]) == (404, "clustering_missing")
    assert client.post(f"{grouped}/points/count", json={}).json()["count"] == 30


@pytest.mark.parametrize(
    "body",
    [
        {},
        *({"k": k} for k in (0, -1, 1001, 10**9, "3", "Auto", 2.5, True)),
        {"k": 3, "method": "dbscan"},
        *({"k": 3, "seed": seed} for seed in (-1, 2**31)),
        {"k": 3, "min_size": 5},
        {"k": 3, "method": "hdbscan"},
        {"k": "auto", "method": "hdbscan"},
        *({"method": "hdbscan", "min_size": n} for n in (1, 0, 1_000_001, "5")),
    ],
)
def test_a_wrong_option_is_422(client: TestClient, grouped: str, body: object) -> None:
    assert client.post(f"{grouped}/clusterings", json=body).status_code == 422


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Hold every clustering until the event is set; a cancelled one stops."""
    gate = threading.Event()

    def cluster(self: object, recipe: object, progress: Callable[[float], None]) -> str:
        while not gate.wait(0.01):
            progress(0.5)
        return "1"

    monkeypatch.setattr("service.library.collection.Collection.cluster", cluster)
    return gate


def test_a_clustering_that_takes_longer_is_a_job(client: TestClient, grouped: str, held: threading.Event) -> None:
    answer = client.post(f"{grouped}/clusterings", params={"wait_s": 0.05}, json={"k": 3})
    assert answer.status_code == 202
    path = f"/v1/jobs/{answer.json()['job']}"
    running = client.get(path).json()
    assert (running["state"], running["progress"], running["result"]) == ("running", 0.5, None)
    held.set()
    jobs = client.app.state.service.library.jobs  # type: ignore[attr-defined]
    jobs.wait(running["id"], TIMEOUT_S)
    done = client.get(path).json()
    assert (done["state"], done["progress"], done["result"]) == ("done", 1.0, {"clustering": "1"})
    assert client.delete(path).json()["state"] == "done"


def test_a_job_is_cancelled(client: TestClient, grouped: str, held: threading.Event) -> None:
    job = client.post(f"{grouped}/clusterings", params={"wait_s": 0}, json={"k": 3}).json()["job"]
    client.delete(f"/v1/jobs/{job}")
    client.app.state.service.library.jobs.wait(job, TIMEOUT_S)  # type: ignore[attr-defined]
    assert client.get(f"/v1/jobs/{job}").json()["state"] == "cancelled"
    assert client.delete("/v1/jobs/none").status_code == 404


@pytest.mark.parametrize("wait_s", [-1, 61, "soon"])
def test_the_wait_has_two_sides(client: TestClient, grouped: str, wait_s: object) -> None:
    assert client.post(f"{grouped}/clusterings", params={"wait_s": wait_s}, json={"k": 3}).status_code == 422


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(StorageFailed("x"), 503, "storage_failed"), (RuntimeError("inner"), 500, "internal_error")],
)
def test_a_job_that_fails_while_one_waits_is_answered_as_its_error(
    client: TestClient, grouped: str, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    def cluster(*args: object) -> str:
        raise error

    monkeypatch.setattr("service.library.collection.Collection.cluster", cluster)
    answer = client.post(f"{grouped}/clusterings", json={"k": 3})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert "inner" not in answer.text
