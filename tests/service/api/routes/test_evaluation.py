from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.analysis.point_set import PointSet

if TYPE_CHECKING:
    from starlette.testclient import TestClient

PNG = {"content-type": "image/png"}
TIMEOUT_S = 20.0
PATHS = ["classify/evaluate", "label-issues"]


def clouds() -> NDArray[np.float64]:
    """Return sixty vectors in three clear groups, one after the other."""
    return 3 * np.eye(32)[np.arange(60) % 3] + 0.4 * np.random.default_rng(0).normal(size=(60, 32))


@pytest.fixture
def filled(client: TestClient, collection: str) -> str:
    """Put three groups, of which points 5 and 31 bear another group's label, and two points without a label."""
    labels = [f"l{i % 3}" for i in range(60)]
    labels[5], labels[31] = "l0", "l2"
    points: list[dict[str, Any]] = [
        {"id": f"p{i}", "vector": v.tolist(), "label": label, "payload": {"n": i}}
        for i, (v, label) in enumerate(zip(clouds(), labels, strict=True))
    ]
    points += [{"id": f"x{i}", "vector": clouds()[i].tolist()} for i in range(2)]
    client.put(f"{collection}/points", json={"points": points}).raise_for_status()
    return collection


def test_an_evaluation_answers_all_its_figures(client: TestClient, filled: str) -> None:
    answer = client.post(f"{filled}/classify/evaluate", json={"ks": [1, 5, 1000], "exact": True})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["points"], found["classes"], found["best_k"]) == (60, 3, 5)
    assert found["accuracy"].keys() == found["balanced_accuracy"].keys() == {"1", "5", "1000"}
    assert found["accuracy"]["5"] == pytest.approx(58 / 60)  # all but the two that are labelled wrong
    assert {each["label"]: each["support"] for each in found["per_class"]} == {"l0": 21, "l1": 19, "l2": 20}
    assert set(found["per_class"][0]) == {"label", "support", "precision", "recall", "f1"}
    wrong = [cell for cell in found["confusion"] if cell["label"] != cell["predicted"]]
    assert sorted((cell["label"], cell["predicted"], cell["count"]) for cell in wrong) == [
        ("l0", "l2", 1),
        ("l2", "l1", 1),
    ]
    assert found["confusion_cells"] == len(found["confusion"]) == 5
    assert len(found["calibration"]["bins"]) == 15
    assert 0 <= found["calibration"]["error"] <= 1


def test_an_evaluation_needs_no_options(client: TestClient, filled: str) -> None:
    found = client.post(f"{filled}/classify/evaluate", json={}).json()
    assert list(found["accuracy"]) == ["1", "5", "10", "20", "50", "100", "200"]


def test_issues_name_the_points_and_their_neighbours(client: TestClient, filled: str) -> None:
    answer = client.post(f"{filled}/label-issues", json={"k": 5, "exact": True})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["checked"], found["suspected"]) == (60, 2)
    assert {(each["id"], each["label"], each["suggested"]) for each in found["result"]} == {
        ("p5", "l0", "l2"),
        ("p31", "l2", "l1"),
    }
    for each in found["result"]:
        assert each["probability"] < 0.5 < each["suggested_probability"]
        assert [set(hit) for hit in each["neighbours"]] == [{"id", "score", "label"}] * 5
        vote = client.post(f"{filled}/classify", json={"id": each["id"], "k": 5, "exact": True}).json()
        assert [hit["id"] for hit in each["neighbours"]] == [hit["id"] for hit in vote["neighbours"]]
        assert (each["suggested"], each["suggested_probability"]) == (
            vote["label"],
            pytest.approx(vote["probability"], abs=1e-5),
        )
    one = client.post(f"{filled}/label-issues", json={"k": 5, "exact": True, "limit": 1}).json()
    assert (one["result"], one["suspected"]) == (found["result"][:1], 2)


def test_a_filter_confines_who_is_asked_and_who_votes(client: TestClient, filled: str) -> None:
    condition = {"must": [{"key": "n", "range": {"lt": 30}}]}
    found = client.post(f"{filled}/classify/evaluate", json={"ks": [3], "filter": condition}).json()
    assert found["points"] == 30
    assert found["accuracy"]["3"] == pytest.approx(29 / 30)
    issues = client.post(f"{filled}/label-issues", json={"k": 3, "filter": condition}).json()
    assert [each["id"] for each in issues["result"]] == ["p5"]
    assert issues["checked"] == 30
    assert {hit["id"] for hit in issues["result"][0]["neighbours"]} <= {f"p{i}" for i in range(30)}


@pytest.mark.parametrize("balance", ["none", "inverse"])
@pytest.mark.parametrize("weighting", ["softmax", "distance", "uniform"])
def test_every_vote_can_be_tried_and_then_used(client: TestClient, filled: str, weighting: str, balance: str) -> None:
    options = {"weighting": weighting, "balance": balance, "temperature": 0.5, "exact": True}
    found = client.post(f"{filled}/classify/evaluate", json={"ks": [40], **options}).json()
    right = 0
    for i in range(60):
        label = client.get(f"{filled}/points/p{i}").json()["label"]
        vote = client.post(f"{filled}/classify", json={"id": f"p{i}", "k": 40, **options}).json()
        right += vote["label"] == label
    assert found["accuracy"]["40"] == pytest.approx(right / 60)


def test_a_raw_image_takes_the_same_options_in_the_url(
    client: TestClient, collection: str, png: Callable[..., bytes]
) -> None:
    for seed, label in enumerate(["a", "a", "a", "b"]):
        path = f"{collection}/points/{seed}"
        client.put(path, params={"label": label}, content=png(seed=seed), headers=PNG).raise_for_status()
    options = {"k": 4, "weighting": "uniform", "exact": True}
    for balance, share in (("none", 0.75), ("inverse", 0.5)):
        raw = client.post(
            f"{collection}/classify", params={**options, "balance": balance}, content=png(seed=9), headers=PNG
        ).json()
        assert raw["label"] == "a"
        assert raw["probability"] == pytest.approx(share)
    for wrong in ({"weighting": "cosine"}, {"balance": "even"}, {"temperature": "nan"}, {"exact": "perhaps"}):
        answer = client.post(f"{collection}/classify", params=wrong, content=png(), headers=PNG)
        assert answer.status_code == 422, wrong


WRONG_VOTES: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": -1},
    {"temperature": 100.1},
    {"temperature": "0.07"},
    {"temperature": None},
    {"weighting": "linear"},
    {"weighting": 1},
    {"balance": "even"},
    {"balance": True},
    {"exact": "yes"},
    {"filter": {"must": 1}},
    {"filter": []},
    {"unknown": 1},
]
WRONG_KS: list[dict[str, Any]] = [
    {"ks": ks}
    for ks in ([], [0], [-1], [1001], [10**9], ["5"], [5, 5], [1.5], [True], [None], 5, None, list(range(1, 18)))
]
WRONG_K: list[dict[str, Any]] = [{name: n} for name in ("k", "limit") for n in (0, -1, 1001, 10**9, "5", 1.5, None)]


@pytest.mark.parametrize("change", [*WRONG_VOTES, *WRONG_KS])
def test_a_wrong_option_of_an_evaluation_is_422(client: TestClient, filled: str, change: dict[str, Any]) -> None:
    answer = client.post(f"{filled}/classify/evaluate", json={"ks": [5], **change})
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize("change", [*WRONG_VOTES, *WRONG_K])
def test_a_wrong_option_of_a_search_for_issues_is_422(client: TestClient, filled: str, change: dict[str, Any]) -> None:
    answer = client.post(f"{filled}/label-issues", json=change)
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize("change", [each for each in WRONG_VOTES if each != {"filter": []}])
def test_a_wrong_option_of_a_vote_is_422(client: TestClient, filled: str, change: dict[str, Any]) -> None:
    answer = client.post(f"{filled}/classify", json={"id": "p0", **change})
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400"])
@pytest.mark.parametrize("path", [*PATHS, "classify"])
def test_a_temperature_that_is_no_number_is_refused(client: TestClient, filled: str, path: str, value: str) -> None:
    target = '"id": "p0", ' if path == "classify" else ""
    body = f'{{{target}"temperature": {value}}}'
    answer = client.post(f"{filled}/{path}", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422), answer.text


def test_the_limits_have_an_inside(client: TestClient, filled: str) -> None:
    for change in ({"ks": list(range(985, 1001))}, {"ks": [1], "temperature": 100}, {"ks": [1], "temperature": 1e-300}):
        assert client.post(f"{filled}/classify/evaluate", json=change).status_code == 200, change
    for change in ({"k": 1000, "limit": 1000}, {"k": 1, "limit": 1}):
        assert client.post(f"{filled}/label-issues", json=change).status_code == 200, change


@pytest.mark.parametrize("path", PATHS)
def test_without_two_labelled_points_there_is_nothing_to_compare(
    client: TestClient, collection: str, path: str
) -> None:
    def answered(**options: object) -> tuple[int, str]:
        answer = client.post(f"{collection}/{path}", params={"wait_s": 0}, json=options)
        return answer.status_code, answer.json().get("code", "")

    assert answered() == (409, "collection_empty")
    points = [{"id": str(i), "vector": [1.0] * 32} for i in range(3)]
    client.put(f"{collection}/points", json={"points": [{**points[0], "label": "a"}, *points[1:]]})
    assert answered() == (409, "collection_empty")
    client.patch(f"{collection}/points/1", json={"label": "b"})
    assert answered()[0] == 202
    assert answered(filter={"must": [{"key": "label", "match": {"value": "a"}}]}) == (409, "collection_empty")
    assert client.post(f"/v1/collections/none/{path}", json={}).status_code == 404


@dataclass
class Gate:
    """Where a job waits before it looks at neighbours: `reached` is set by then, `open` lets it go on."""

    reached: threading.Event = field(default_factory=threading.Event)
    open: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate, found = Gate(), PointSet.neighbours

    def neighbours(self: PointSet, k: int, exact: bool = False) -> Iterator[Any]:
        gate.reached.set()
        assert gate.open.wait(TIMEOUT_S)
        yield from found(self, k, exact)

    monkeypatch.setattr(PointSet, "neighbours", neighbours)
    return gate


@pytest.mark.parametrize("path", PATHS)
def test_a_job_is_cancelled(client: TestClient, filled: str, gate: Gate, path: str) -> None:
    answer = client.post(f"{filled}/{path}", params={"wait_s": 0}, json={})
    assert answer.status_code == 202
    job = answer.json()["job"]
    assert gate.reached.wait(TIMEOUT_S)
    assert client.delete(f"/v1/jobs/{job}").json()["state"] == "running"
    gate.open.set()
    client.app.state.service.library.jobs.wait(job, TIMEOUT_S)  # type: ignore[attr-defined]
    ended = client.get(f"/v1/jobs/{job}").json()
    assert (ended["state"], ended["kind"]) == ("cancelled", path.rsplit("/", 1)[-1])


@pytest.mark.parametrize("path", PATHS)
def test_a_job_that_takes_longer_leaves_its_result_in_its_record(client: TestClient, filled: str, path: str) -> None:
    at_once = client.post(f"{filled}/{path}", json={}).json()
    job = client.post(f"{filled}/{path}", params={"wait_s": 0}, json={}).json()["job"]
    client.app.state.service.library.jobs.wait(job, TIMEOUT_S)  # type: ignore[attr-defined]
    assert client.get(f"/v1/jobs/{job}").json()["result"] == at_once


def test_what_was_deleted_meanwhile_is_not_listed(client: TestClient, filled: str, gate: Gate) -> None:
    job = client.post(f"{filled}/label-issues", params={"wait_s": 0}, json={"k": 60}).json()["job"]
    assert gate.reached.wait(TIMEOUT_S)
    voter = client.post(f"{filled}/query", json={"id": "p31", "limit": 1}).json()["result"][0]["id"]
    client.post(f"{filled}/points/delete", json={"ids": ["p5", voter]})
    gate.open.set()
    found = client.app.state.service.library.jobs.wait(job, TIMEOUT_S).result  # type: ignore[attr-defined]
    assert (found["checked"], found["suspected"]) == (60, 2)
    assert [each["id"] for each in found["result"]] == ["p31"]
    assert len(found["result"][0]["neighbours"]) == 9
    assert voter not in {hit["id"] for hit in found["result"][0]["neighbours"]}
