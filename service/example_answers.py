"""The answers that the document shows: what the requests of `service/examples.py` are answered like, put together by hand."""

from __future__ import annotations

from typing import Any, Final

_FINGERPRINT: Final = "8559dca0afcb67aaf52c955d74dac0a645006a067ff9b7db1431f12081499886"
_NAME: Final = "vit_small_patch16-8559dca0afcb"
_VECTOR: Final = [0.5, -0.5, 0.5, -0.5]
_JOB: Final = "0f8b5c1d2e3a4b5c8d9e0f1a2b3c4d5e"
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
_CAT: Final = {"id": "cat/1.png", "label": "cat", "payload": {"split": "train", "year": 2023}}
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
            {"id": "cat/1.png", "score": 0.99513, "cluster": 0, "label": "cat", "payload": _CAT["payload"]},
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
