"""Examples for the OpenAPI document: requests that work as they stand, one after another, on a collection of four pictures of animals,
and their answers.

The requests are written for the model that is loaded, so that a vector has as many numbers as its vectors have. The answers are put
together by hand. The ids of clusterings and jobs are the service's own; those shown here have their form only.
"""

from __future__ import annotations

from typing import Any, Final

PICTURE: Final = (  # four grey pixels as PNG, in base64
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAAAAABX3VL4AAAADklEQVR4nGNg+M/Q4AAABUIBwHA2NtYAAAAASUVORK5CYII="
)
_JOB: Final = "0f8b5c1d2e3a4b5c8d9e0f1a2b3c4d5e"
_TRAIN: Final = {"split": "train", "year": 2023}
_CATS: Final = {"must": [{"key": "label", "match": {"value": "cat"}}]}
_FILTERS: Final[dict[str, Any]] = {
    "by label": _CATS,
    "by range": {"must": [{"key": "year", "range": {"gte": 2020, "lt": 2025}}], "must_not": [{"ids": ["dog/2.png"]}]},
    "by either": {"should": [{"key": "split", "match": {"any": ["train", "test"]}}, {"exists": "label"}]},
}


def parameters(model: str) -> dict[str, Any]:
    """Return an example of each parameter that wants one, by its name; `model` is the name of a loaded model."""
    return {
        "name": model,
        "c": "animals",
        "id": "cat/1.png",
        "g": "1",
        "n": 0,
        "job": _JOB,
        "label": "cat",
        "payload": _TRAIN,
        "replace": True,
        "filter": _CATS,
        "kind": "attention",
    }


def bodies(dimension: int) -> dict[str, dict[str, Any]]:
    """Return the examples of the bodies that are JSON, by the name of their model and then by what they show."""
    starts: dict[str, dict[str, Any]] = {
        "by vector": {"vector": _vector(dimension, 1.0, 0.1)},
        "by id": {"id": "cat/1.png"},
        "by image": {"image": PICTURE},
    }
    filtered = {name: {"filter": condition} for name, condition in _FILTERS.items()}
    return {
        "EmbedBody": {"base64": {"images": [PICTURE]}},
        "EmbeddingsBody": {
            "one data URI": {"input": f"data:image/png;base64,{PICTURE}"},
            "several in base64": {"input": [PICTURE, PICTURE], "encoding_format": "base64"},
        },
        "CollectionBody": {"as usual": {}, "with thumbnails": {"keep": "thumbnail"}},
        "PutPointsBody": {
            "vectors": {"points": _points(dimension), "replace": True},
            "images": {"points": [{"id": "cat/1.png", "image": PICTURE, "label": "cat"}], "replace": True},
        },
        "PatchPointBody": {
            "new label": {"label": "tabby"},
            "new payload": {"payload": {"split": "test", "year": 2024}},
            "no label": {"label": None},
        },
        "DeleteBody": {"by ids": {"ids": ["cat/1.png", "cat/2.png"]}, **filtered},
        "ScrollBody": {"first page": {"limit": 2}, **filtered},
        "CountBody": {"all": {}, **filtered},
        "QueryBody": {**starts, **{name: {"id": "cat/1.png", **given} for name, given in filtered.items()}},
        "QueryBatchBody": {"several": {"queries": [{**start, "limit": 2} for start in starts.values()]}},
        "ClassifyBody": {
            **starts,
            "balanced": {"id": "cat/1.png", "k": 3, "weighting": "distance", "balance": "inverse", "reject_below": 0.5},
        },
        "EvaluateBody": {"as usual": {}, "by label and range": {"ks": [1, 3], "filter": _FILTERS["by range"]}},
        "LabelIssuesBody": {"as usual": {}, "three neighbours": {"k": 3, "limit": 10}},
        "ClusteringBody": {
            "kmeans": {"method": "kmeans", "k": 2},
            "kmeans that chooses k": {"method": "kmeans", "k": "auto"},
            "hdbscan": {"method": "hdbscan", "min_size": 2},
        },
        "ClusterNameBody": {"a name": {"name": "cats"}, "no name": {"name": None}},
        "ClusterQueryBody": starts,
        "DuplicatesBody": {
            "all": {"threshold": 0.95},
            "across two sets": {"key": "split", "across": ["train", "test"]},
        },
        "OutliersBody": {"as usual": {}, "two neighbours": {"k": 2, "limit": 10}},
    }


def _points(dimension: int) -> list[dict[str, Any]]:
    """Return two cats and two dogs, one of each to train on and one to test with."""
    return [
        {
            "id": f"{label}/{number}.png",
            "vector": _vector(dimension, *direction),
            "label": label,
            "payload": {"split": split, "year": year},
        }
        for label, number, split, year, direction in (
            ("cat", 1, "train", 2023, (1.0, 0.0)),
            ("cat", 2, "test", 2024, (1.0, 0.2)),
            ("dog", 1, "train", 2024, (0.0, 1.0)),
            ("dog", 2, "test", 2025, (0.2, 1.0)),
        )
    ]


def _vector(dimension: int, *first: float) -> list[float]:
    return [*first, *[0.0] * (dimension - len(first))]


_FINGERPRINT: Final = "8559dca0afcb67aaf52c955d74dac0a645006a067ff9b7db1431f12081499886"
_NAME: Final = "vit_small_patch16-8559dca0afcb"
_VECTOR: Final = [0.5, -0.5, 0.5, -0.5]
_MADE_AT: Final = 1767225600.0

_MODEL: Final = {
    "id": _NAME,
    "object": "model",
    "created": 0,
    "owned_by": "dinodex",
    "fingerprint": _FINGERPRINT,
    "dimension": 384,
}
_COLLECTION: Final = {
    "name": "animals",
    "fingerprint": _FINGERPRINT,
    "dimension": 384,
    "keep": "thumbnail",
    "count": 4,
    "labels": 2,
    "labelled": 4,
    "index": "exact",
    "measured_recall": None,
    "memory_bytes": 6176,
    "tail": 4,
    "building": False,
    "model_loaded": True,
}
_CAT: Final = {"id": "cat/1.png", "label": "cat", "payload": _TRAIN}
_HITS: Final = [
    {"id": "cat/2.png", "score": 0.98058, "label": "cat", "payload": {"split": "test", "year": 2024}},
    {"id": "dog/2.png", "score": 0.19612, "label": "dog", "payload": {"split": "test", "year": 2025}},
    {"id": "dog/1.png", "score": 0.0, "label": "dog", "payload": {"split": "train", "year": 2024}},
]
_NEIGHBOURS: Final = [{name: hit[name] for name in ("id", "score", "label")} for hit in _HITS]
_CLUSTER: Final = {
    "cluster": 0,
    "size": 2,
    "cohesion": 0.99513,
    "medoid": "cat/1.png",
    "representatives": ["cat/1.png", "cat/2.png"],
    "labels": {"cat": 2},
    "name": "cats",
}
_OUTLIERS: Final = {
    "result": [
        {"id": "cat/1.png", "score": 0.60777, "label": "cat"},
        {"id": "dog/1.png", "score": 0.60777, "label": "dog"},
        {"id": "cat/2.png", "score": 0.47956, "label": "cat"},
        {"id": "dog/2.png", "score": 0.47956, "label": "dog"},
    ],
    "points": 4,
}

ANSWERS: Final[dict[str, Any]] = {  # by the name of their model
    "StatusAnswer": {"status": "ready", "checks": {"self_test": True, "embedder": True, "store": True}},
    "ModelAnswer": {
        "model": _NAME,
        "fingerprint": _FINGERPRINT,
        "dimension": 384,
        "architecture": "vit_small_patch16",
        "image_size": 224,
        "pooling": "cls",
        "outputs": ["cls", "mean", "cls+mean", "patches"],
        "runtime": "openvino",
        "runtime_reason": "asked for by name",
        "precision": "fp32",
        "self_test_cosine": 1.0,
        "licence": "Apache-2.0",
        "lineage": "trained here, from random weights",
    },
    "EmbedAnswer": {"data": [{"index": 0, "embedding": _VECTOR}], "model": _NAME, "fingerprint": _FINGERPRINT},
    "EmbeddingsAnswer": {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": _VECTOR}],
        "model": _NAME,
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    },
    "OpenAiModel": _MODEL,
    "OpenAiModels": {"object": "list", "data": [_MODEL]},
    "CollectionAnswer": _COLLECTION,
    "CollectionsAnswer": {"result": [_COLLECTION]},
    "PutAnswer": {"result": [{"id": "cat/1.png", "status": "created"}, {"id": "cat/2.png", "status": "unchanged"}]},
    "PutItem": {"id": "cat/1.png", "status": "created"},
    "PointAnswer": _CAT,
    "ScrollAnswer": {"result": [_CAT], "next_cursor": None},
    "CountAnswer": {"count": 4},
    "DeletedAnswer": {"deleted": 2},
    "QueryAnswer": {"result": _HITS},
    "QueryBatchAnswer": {"results": [_HITS[:2], _HITS[:1]]},
    "ClassifyAnswer": {
        "label": "cat",
        "probability": 0.99999,
        "classes": [{"label": "cat", "probability": 0.99999}, {"label": "dog", "probability": 0.00001}],
        "neighbours": _NEIGHBOURS,
    },
    "EvaluationAnswer": {
        "points": 4,
        "classes": 2,
        "accuracy": {"1": 1.0, "3": 1.0},
        "balanced_accuracy": {"1": 1.0, "3": 1.0},
        "best_k": 1,
        "per_class": [
            {"label": "cat", "support": 2, "precision": 1.0, "recall": 1.0, "f1": 1.0},
            {"label": "dog", "support": 2, "precision": 1.0, "recall": 1.0, "f1": 1.0},
        ],
        "confusion": [
            {"label": "cat", "predicted": "cat", "count": 2},
            {"label": "dog", "predicted": "dog", "count": 2},
        ],
        "confusion_cells": 2,
        "calibration": {
            "error": 0.0,
            "bins": [{"lower": 0.93333, "upper": 1.0, "count": 4, "confidence": 1.0, "accuracy": 1.0}],
        },
    },
    "LabelIssuesAnswer": {
        "result": [
            {
                "id": "cat/1.png",
                "label": "dog",
                "suggested": "cat",
                "probability": 0.00001,
                "suggested_probability": 0.99999,
                "neighbours": _NEIGHBOURS,
            }
        ],
        "suspected": 1,
        "checked": 4,
    },
    "JobStarted": {"job": _JOB},
    "JobAnswer": {
        "id": _JOB,
        "kind": "outliers",
        "created_at": _MADE_AT,
        "state": "done",
        "progress": 1.0,
        "result": _OUTLIERS,
        "error": None,
    },
    "ClusteringMade": {"clustering": "1"},
    "ClusteringsAnswer": {
        "result": [
            {
                "clustering": "1",
                "method": "kmeans",
                "clusters": 2,
                "noise": 0,
                "points": 4,
                "seed": 0,
                "created_at": _MADE_AT,
                "k": 2,
                "min_size": None,
                "sample": None,
                "sweep": None,
            }
        ]
    },
    "ClusterAnswer": _CLUSTER,
    "ClustersAnswer": {"result": [_CLUSTER]},
    "ClusterOutliersAnswer": {
        "result": [
            {"id": "cat/1.png", "score": 0.99513, "cluster": 0, "label": "cat", "payload": _TRAIN},
        ],
        "next_cursor": None,
    },
    "ClusterQueryAnswer": {
        "result": [
            {"cluster": 0, "score": 0.99513, "representatives": ["cat/1.png", "cat/2.png"], "name": "cats"},
            {"cluster": 1, "score": 0.09854, "representatives": ["dog/1.png", "dog/2.png"], "name": None},
        ]
    },
    "DuplicatesAnswer": {
        "groups": [{"size": 2, "score": 0.98058, "ids": ["cat/1.png", "cat/2.png"], "labels": {"cat": 2}}],
        "total": 1,
        "duplicates": 2,
        "capped": 0,
        "points": 4,
        "threshold": 0.95,
    },
    "OutliersAnswer": _OUTLIERS,
}
