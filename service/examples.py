"""The requests that the document shows: they work as they stand, one after another, on a collection of four pictures of animals.

They are written for the model that is loaded, so that a vector has as many numbers as its vectors have. The ids of clusterings and
jobs are the service's own; those shown here have their form only.
"""

from __future__ import annotations

from typing import Any, Final

PICTURE: Final = (  # four grey pixels as PNG, in base64
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAAAAABX3VL4AAAADklEQVR4nGNg+M/Q4AAABUIBwHA2NtYAAAAASUVORK5CYII="
)
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
        "job": "0f8b5c1d2e3a4b5c8d9e0f1a2b3c4d5e",
        "label": "cat",
        "payload": {"split": "train", "year": 2023},
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
