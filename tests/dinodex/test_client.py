from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pictures import encoded, picture, png_of

from dinodex import Client
from dinodex.collection import Collection
from dinodex.connection import encode_id
from dinodex.errors import (
    AnswerInvalid,
    ClientError,
    Conflict,
    JobFailed,
    KeyInvalid,
    NotAllowed,
    NotFound,
    RequestRefused,
    ServiceUnreachable,
    Unavailable,
)

Png = Callable[..., bytes]


def answering(status: int, content: object, **headers: str) -> Client:
    """A client whose service always answers the same."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=body, headers=headers))
    return Client("http://service", transport=transport)


def test_the_model_is_described(client: Client) -> None:
    model = client.model()
    assert (model.dimension, model.image_size, model.pooling) == (32, 32, "cls")


def test_images_from_bytes_and_paths_become_unit_vectors(client: Client, png: Png, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(png(seed=1))
    vectors = client.embed([png(seed=1), tmp_path / "image.png", png(seed=2)])
    assert vectors.shape == (3, 32)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert client.embed(png(seed=1)).shape == (1, 32)
    assert client.embed(png(seed=1), output="cls+mean").shape == (1, 64)
    assert client.embed(png(seed=1), output="patches").shape == (1, 16, 32)


def test_a_refused_image_says_which_and_why(client: Client, png: Png) -> None:
    with pytest.raises(RequestRefused) as refusal:
        client.embed([png(), b"\x89PNG\r\n\x1a\n torn"])
    assert refusal.value.status == 422
    assert refusal.value.errors[0]["index"] == 1


def test_more_images_than_a_request_takes_go_in_several(client: Client, png: Png) -> None:
    images = [png(seed=i) for i in range(70)]
    vectors = client.embed(images)
    assert vectors.shape == (70, 32)
    np.testing.assert_allclose(vectors[[0, 16, 69]], client.embed([images[0], images[16], images[69]]), atol=1e-6)
    with pytest.raises(RequestRefused) as refusal:
        client.embed([*images[:40], b"\x89PNG\r\n\x1a\n torn"])
    assert [item["index"] for item in refusal.value.errors] == [40]
    photos = client.collection("photos")
    photos.create()
    outcomes = photos.put_many([{"id": str(i), "image": image} for i, image in enumerate(images)])
    assert [outcome.id for outcome in outcomes] == [str(i) for i in range(70)]
    assert photos.count() == 70
    with pytest.raises(ValueError, match="at least one"):
        client.embed([])


@pytest.mark.parametrize(
    ("bad", "status", "code"),
    [
        (b"", 400, "empty_body"),
        (b"not an image", 415, "unsupported_image_type"),
        (b"\x89PNG\r\n\x1a\n torn", 422, "image_corrupt"),
        (png_of(13_000, 13_000), 422, "too_many_pixels"),
        (png_of(1, 200), 422, "too_small"),
    ],
)
def test_a_bad_image_is_refused_by_its_reason_and_the_next_good_one_is_taken(
    client: Client, png: Png, bad: bytes, status: int, code: str
) -> None:
    photos = client.collection("photos")
    photos.create()
    with pytest.raises(RequestRefused) as refusal:
        photos.put("a", image=bad)
    assert (refusal.value.status, refusal.value.code) == (status, code)
    assert photos.count() == 0
    assert photos.put("a", image=png()).status == "created"


@pytest.mark.parametrize("vector", [[1.0] * 31, [float("nan")] * 32, [float("inf")] * 32, [0.0] * 32])
def test_a_bad_vector_refuses_the_whole_request(client: Client, vector: list[float]) -> None:
    photos = client.collection("photos")
    photos.create()
    with pytest.raises(ClientError):
        photos.put_many([{"id": "good", "vector": [1.0] * 32}, {"id": "bad", "vector": vector}])
    assert photos.count() == 0
    assert photos.put("good", vector=[1.0] * 32).status == "created"


@pytest.mark.parametrize("point_id", ["a.png", "a/b.png", "a/thumbnail", "../x", "scroll", "..", "ü ?#%2F", "c:\\d"])
def test_any_id_makes_the_way_through_a_url_and_back(client: Client, png: Png, point_id: str) -> None:
    photos = client.collection("photos")
    photos.create()
    assert photos.put(point_id, image=png(), label="cat", payload={"n": 1}).status == "created"
    found = photos.get(point_id, with_vector=True)
    assert (found.id, found.label, found.payload) == (point_id, "cat", {"n": 1})
    assert found.vector is not None
    assert len(found.vector) == 32
    assert photos.put(point_id, image=png()).status == "unchanged"
    assert photos.delete([point_id]) == 1
    with pytest.raises(NotFound):
        photos.get(point_id)


def test_a_collection_s_life(client: Client, png: Png) -> None:
    photos = client.collection("photos")
    with pytest.raises(NotFound):
        photos.put("a", image=png())
    assert photos.create(keep="thumbnail").keep == "thumbnail"
    outcomes = photos.put_many([{"id": f"{i}", "image": png(seed=i), "label": f"l{i % 2}"} for i in range(8)])
    assert [outcome.status for outcome in outcomes] == ["created"] * 8
    assert photos.thumbnail("3")[:3] == b"\xff\xd8\xff"
    assert [stats.name for stats in client.collections()] == ["photos"]
    assert photos.count() == photos.stats().count == 8
    odd = {"must": [{"key": "label", "match": {"value": "l1"}}]}
    assert photos.count(odd) == 4
    assert sorted(point.id for point in photos.scroll()) == [str(i) for i in range(8)]
    assert photos.delete(where=odd) == 4
    assert photos.count() == 4
    photos.drop()
    assert client.collections() == []


def test_scrolling_goes_on_over_pages(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dinodex.collection.PAGE", 3)
    photos = client.collection("photos")
    photos.create(keep="none")
    photos.put_many([{"id": f"{i}", "vector": np.eye(32)[i]} for i in range(8)])
    points = list(photos.scroll(with_vector=True))
    assert sorted(point.id for point in points) == [str(i) for i in range(8)]
    assert all(point.vector is not None for point in points)


def test_search_and_vote_by_image_vector_and_id(client: Client, png: Png) -> None:
    photos = client.collection("photos")
    photos.create()
    photos.put_many([{"id": f"{i}", "image": png(seed=i), "label": f"l{i % 2}"} for i in range(6)])
    vector = client.embed(png(seed=4))[0]
    by_image = photos.query(image=png(seed=4), limit=3)
    by_vector = photos.query(vector=vector, limit=3)
    assert [hit.id for hit in by_image] == [hit.id for hit in by_vector]
    assert by_image[0].id == "4"
    assert by_image[0].score == pytest.approx(1.0, abs=1e-5)
    assert "4" not in [hit.id for hit in photos.query(id="4")]
    assert all(hit.score >= 0.9999 for hit in photos.query(vector=vector, score_threshold=0.9999))
    vote = photos.classify(image=png(seed=4), k=1)
    assert (vote.label, vote.probability) == ("l0", pytest.approx(1.0))
    assert [neighbour.id for neighbour in vote.neighbours] == ["4"]
    assert photos.classify(vector=vector, k=6, temperature=10.0, reject_below=0.99).label is None
    with pytest.raises(ValueError, match="exactly one"):
        photos.query(image=png(), id="4")


def test_the_vote_is_tried_on_the_labelled_points_and_doubts_labels(client: Client) -> None:
    points = client.collection("points")
    points.create()
    x = 3 * np.eye(32)[np.arange(40) % 2] + 0.3 * np.random.default_rng(0).normal(size=(40, 32))
    labels = ["ab"[i % 2] for i in range(40)]
    labels[6] = "b"
    points.put_many([{"id": f"{i}", "vector": v, "label": labels[i], "payload": {"n": i}} for i, v in enumerate(x)])
    found = points.evaluate([1, 9], exact=True)
    assert (found.points, found.best_k, found.accuracy[9]) == (40, 9, pytest.approx(39 / 40))
    assert sum(cell.count for cell in found.confusion) == 40
    assert points.evaluate([3], where={"must": [{"key": "n", "range": {"lt": 10}}]}).points == 10
    issues = points.label_issues(9, limit=5, weighting="uniform", balance="inverse")
    assert [(issue.id, issue.label, issue.suggested) for issue in issues.result] == [("6", "b", "a")]
    assert len(issues.result[0].neighbours) == 9
    vote = points.classify(id="6", k=9, weighting="uniform", balance="inverse", exact=True)
    assert (vote.label, vote.probability) == ("a", pytest.approx(issues.result[0].suggested_probability))
    only = points.classify(id="6", where={"must": [{"key": "label", "match": {"value": "b"}}]})
    assert only.label == "b"
    with pytest.raises(RequestRefused):
        points.evaluate([0])


def test_clusters_are_made_listed_named_and_searched(client: Client, png: Png) -> None:
    photos = client.collection("photos")
    photos.create()
    photos.put_many([{"id": f"{i}", "image": png(seed=i), "label": "x"} for i in range(12)])
    clustering = photos.cluster(3, seed=1)
    assert [entry["clustering"] for entry in photos.clusterings()] == [clustering]
    clusters = photos.clusters(clustering)
    assert sum(cluster.size for cluster in clusters) == 12
    assert len(photos.cluster_points(clustering, clusters[0].cluster)) == clusters[0].size
    photos.name_cluster(clustering, clusters[0].cluster, "noise")
    assert photos.clusters(clustering)[0].name == "noise"
    medoid = clusters[0].medoid
    assert photos.query_clusters(clustering, id=medoid, limit=1)[0].cluster == clusters[0].cluster
    assert photos.query_clusters(clustering, image=png(), limit=2)[1].score <= 1.0


def test_conflicts_have_their_own_error(client: Client, png: Png) -> None:
    photos = client.collection("photos")
    photos.create()
    photos.put("a", image=png(seed=1))
    with pytest.raises(Conflict):
        photos.put("a", image=png(seed=2))
    assert photos.put("a", image=png(seed=2), replace=True).status == "replaced"
    client.collection("empty").create()
    with pytest.raises(Conflict) as empty:
        client.collection("empty").classify(image=png())
    assert empty.value.code == "collection_empty"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, NotAllowed),
        (404, NotFound),
        (409, Conflict),
        (429, Unavailable),
        (503, Unavailable),
        (500, RequestRefused),
    ],
)
def test_every_status_has_its_error_with_the_service_s_words(status: int, kind: type[RequestRefused]) -> None:
    problem = {"detail": "because.", "code": "why", "retry_after_s": 2}
    with (
        answering(status, problem, **{"x-request-id": "r1"}) as client,
        pytest.raises(kind, match="because") as refusal,
    ):
        client.collections()
    assert (refusal.value.status, refusal.value.code, refusal.value.retry_after_s) == (status, "why", 2)
    assert refusal.value.request_id == "r1"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"result": 3}', b'{"result": [{"id": 3}]}'])
def test_an_answer_of_another_program_is_recognised(body: bytes) -> None:
    with answering(200, body) as client, pytest.raises(AnswerInvalid, match="dinodex service"):
        client.collections()


@pytest.mark.parametrize("status", [200, 202])
@pytest.mark.parametrize(
    "ask",
    [
        lambda c: c.evaluate(),
        lambda c: c.label_issues(),
        lambda c: c.cluster(2),
        lambda c: c.duplicates(),
        lambda c: c.outliers(),
        lambda c: c.clusterings(),
        lambda c: c.count(),
        lambda c: c.delete(["a"]),
    ],
)
def test_an_answer_of_another_program_to_anything_is_recognised(
    ask: Callable[[Collection], object], status: int
) -> None:
    for body in (b"<html>", b"[]", b'{"other": 1}'):
        with answering(status, body) as client, pytest.raises(AnswerInvalid, match="dinodex service"):
            ask(client.collection("c"))


def test_an_error_of_another_program_keeps_its_status() -> None:
    with answering(502, b"bad gateway") as client, pytest.raises(RequestRefused, match="502"):
        client.model()


def test_no_service_is_one_sentence() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServiceUnreachable, match="is the service up"):
        client.model()
    with pytest.raises(ServiceUnreachable, match="not an address"):
        Client("http://[::1")
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServiceUnreachable, match="not ready within 0 s"):
        client.wait_until_ready(timeout_s=0)


def test_a_file_that_is_not_there_is_the_caller_s(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="cannot read"):
        client.embed(tmp_path / "none.png")


def test_a_key_is_sent_as_a_bearer_token_and_a_failed_job_says_why() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization", ""))
        job: dict[str, Any] = {"id": "j", "state": "failed", "error": {"code": "x", "detail": "the disk is full"}}
        return httpx.Response(202, json={"job": "j"}) if request.method == "POST" else httpx.Response(200, json=job)

    with (
        Client("http://service", "secret", transport=httpx.MockTransport(answer)) as client,
        pytest.raises(JobFailed, match="the disk is full"),
    ):
        client.collection("c").cluster(2)
    assert seen == ["Bearer secret"] * 2


def test_ids_are_encoded_whole() -> None:
    assert encode_id("a/b.png") == "a%2Fb.png"
    assert encode_id("..") == "%2E%2E"
    assert encode_id(encoded(picture()).hex()[:4]) == "8950"


@pytest.mark.parametrize("where", [{}, {"must": []}, {"must": [], "should": [], "must_not": []}])
def test_u05_the_client_deletes_by_no_filter_without_a_condition(client: Client, where: dict[str, Any]) -> None:
    photos = client.collection("photos")
    photos.create(keep="none")
    photos.put_many([{"id": f"{i}", "vector": np.eye(32)[i]} for i in range(3)])
    with pytest.raises(ValueError, match="every point"):
        photos.delete(where=where)
    with pytest.raises(ValueError, match="either"):
        photos.delete(["0"], where={"must": [{"ids": ["1"]}]})
    with pytest.raises(RequestRefused):
        photos.delete(where={"must": [{"must": []}]})
    assert photos.count(where) == 3


@pytest.mark.parametrize("key", ["secretkey", "\ufeffsecretkey\r\n", "schlüssel"])
def test_u20_a_key_is_sent_without_the_mark_of_windows(key: str) -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(dict(request.headers.raw)[b"Authorization"])
        return httpx.Response(200, json={"result": []})

    with Client("http://service", key, transport=httpx.MockTransport(answer)) as client:
        client.collections()
    assert sent == [b"Bearer " + key.strip("\ufeff\r\n").encode()]


def test_u20_a_key_that_no_header_can_carry_is_named_as_that() -> None:
    for key in ("secret\nkey", "secret\0key", "secret\x7fkey"):
        with pytest.raises(KeyInvalid, match="control character"):
            Client("http://service", key)
