"""Response models read the library's own types."""

from __future__ import annotations

import numpy as np

from service.api.responses import (
    ClassifyAnswer,
    ClusterAnswer,
    ClusteringAnswer,
    ClusterOutlierAnswer,
    HitAnswer,
    PointAnswer,
)
from service.points import Classification, ClassProbability, Cluster, Clustering, ClusterOutlier, Hit, Point

VECTOR = np.array([0.5, -0.25], np.float32)


def test_a_point_has_the_vector_that_was_asked_for_and_no_null_instead() -> None:
    bare = PointAnswer.model_validate(Point("a", None, {"n": 1}))
    assert bare.model_dump(exclude_unset=True) == {"id": "a", "label": None, "payload": {"n": 1}}
    full = PointAnswer.model_validate(Point("a", "cat", None, VECTOR))
    assert full.model_dump_json(exclude_unset=True) == '{"id":"a","label":"cat","payload":null,"vector":[0.5,-0.25]}'


def test_a_hit_lists_the_numbers_of_its_vector() -> None:
    assert HitAnswer.model_validate(Hit("a", 0.5, "cat", None, VECTOR)).vector == [0.5, -0.25]


def test_a_vote_shows_of_its_neighbours_only_who_they_are() -> None:
    vote = Classification("cat", 1.0, (ClassProbability("cat", 1.0),), (Hit("a", 0.5, "cat", {"n": 1}, VECTOR),))
    assert ClassifyAnswer.model_validate(vote).model_dump() == {
        "label": "cat",
        "probability": 1.0,
        "classes": [{"label": "cat", "probability": 1.0}],
        "neighbours": [{"id": "a", "score": 0.5, "label": "cat"}],
    }


def test_a_cluster_is_answered_as_it_is() -> None:
    cluster = Cluster(3, 2, 0.75, "a", ("a", "b"), {"cat": 2}, None)
    assert ClusterAnswer.model_validate(cluster).model_dump() == {**vars(cluster), "representatives": ["a", "b"]}


def test_a_clustering_shows_its_id_and_its_parameters_and_null_for_those_of_other_methods() -> None:
    sweep = [{"k": 2, "score": 0.5}]
    made = Clustering("7", "kmeans", 2, 0, 10, 1, 5.0, {"k": "auto", "sample": 10, "sweep": sweep})
    found = ClusteringAnswer.model_validate(made).model_dump()
    assert (found["clustering"], found["k"], found["sample"], found["sweep"]) == ("7", "auto", 10, sweep)
    assert found["min_size"] is None


def test_an_outlier_of_a_clustering_is_its_point_with_a_score() -> None:
    found = ClusterOutlierAnswer.model_validate(ClusterOutlier(Point("a", "cat", {"n": 1}), None, 0.25))
    assert found.model_dump() == {"id": "a", "score": 0.25, "cluster": None, "label": "cat", "payload": {"n": 1}}
