"""What the client and the shell make of clusterings, duplicates and outliers."""

from __future__ import annotations

import numpy as np
import pytest

from dinodex import Client
from dinodex.collection import Collection
from dinodex.errors import NotFound, RequestRefused


@pytest.fixture
def photos(client: Client) -> Collection:
    """Put three tight groups of ten, a stranger, and two copies across labels."""
    rng = np.random.default_rng(0)
    vectors = [np.eye(32)[i % 3] + 0.05 * rng.normal(size=32) for i in range(30)]
    vectors += [-np.eye(32)[7], vectors[0], vectors[1]]
    labels = ["train"] * 31 + ["test"] * 2
    collection = client.collection("photos")
    collection.create()
    collection.put_many(
        [{"id": f"{i}", "vector": v, "label": label} for i, (v, label) in enumerate(zip(vectors, labels, strict=True))]
    )
    return collection


def test_the_number_of_clusters_is_left_to_the_service(photos: Collection) -> None:
    clustering = photos.cluster()
    assert clustering == photos.clusterings()[0]["clustering"]
    assert photos.clusterings()[0]["k"] == "auto"
    assert sum(c.size for c in photos.clusters(clustering)) == 33
    worst = photos.cluster_outliers(clustering, limit=3)
    assert len(worst) == 3
    cluster = photos.clusters(clustering)[0].cluster
    assert {o.cluster for o in photos.cluster_outliers(clustering, cluster=cluster)} == {cluster}
    photos.delete_clustering(clustering)
    assert photos.clusterings() == []
    with pytest.raises(NotFound):
        photos.clusters(clustering)


def test_hdbscan_leaves_noise(photos: Collection) -> None:
    clustering = photos.cluster(method="hdbscan", min_size=6)
    [made] = photos.clusterings()
    assert (made["method"], made["clusters"], made["min_size"]) == ("hdbscan", 3, 6)
    assert "30" in {o.id for o in photos.cluster_outliers(clustering)}
    with pytest.raises(RequestRefused):
        photos.cluster(3, method="hdbscan")


def test_duplicates_are_found_also_between_two_labels(photos: Collection) -> None:
    found = photos.duplicates(0.9999)
    assert [group.ids for group in found.groups] == [["0", "31"], ["1", "32"]]
    assert (found.total, found.duplicates, found.points) == (2, 4, 33)
    assert photos.duplicates(0.9999, across=("train", "test")).groups == found.groups
    assert photos.duplicates(0.9999, across=("train", "nobody"), exact=True).groups == []
    assert len(photos.duplicates(0.9999, limit=1).groups) == 1
    with pytest.raises(RequestRefused):
        photos.duplicates(2)


def test_the_stranger_is_the_first_outlier(photos: Collection) -> None:
    found = photos.outliers(k=5, limit=2)
    assert (found[0].id, found[0].label, len(found)) == ("30", "train", 2)
    assert found[0].score > 5 * found[1].score
