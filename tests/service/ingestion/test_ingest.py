"""Points on their way in, with the network played by the test: what is asked to be embedded, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backbone.errors import UnsupportedImageType
from service.embedding.embedder import Embedded
from service.errors import DimensionMismatch, DuplicateId, PointConflict
from service.ingestion.incoming import Incoming
from service.ingestion.ingest import Ingest
from service.library.library import Collection, Library
from service.points import hash_image, hash_vector

D = 4


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with Library.open(tmp_path) as library:
        yield library.create("c", "f" * 64, D)[0]


def image(id_: str, data: bytes) -> Incoming:
    return Incoming(id_, hash_image(data), data)


def embedded(axis: int) -> Embedded:
    return Embedded(np.eye(D, dtype=np.float32)[axis], b"jpeg", 0.0, 0.0, 0.0)


def put(collection: Collection, *items: Incoming, replacing: bool = False) -> tuple[list[str], list[bytes]]:
    """Return the status of each point, and which images were embedded for it."""
    ingest, asked = Ingest(collection, items, replacing), []
    while not ingest.done:
        asked += ingest.images
        ingest.put([embedded(0) for _ in ingest.images])
    return [result.status or type(result.error).__name__ for result in ingest.results], asked


def test_only_what_is_new_or_may_replace_is_embedded(collection: Collection) -> None:
    assert put(collection, image("a", b"1"), image("b", b"2")) == (["created", "created"], [b"1", b"2"])
    again = image("a", b"1"), image("b", b"3"), image("c", b"4")
    assert put(collection, *again) == (["unchanged", "PointConflict", "created"], [b"4"])
    assert put(collection, *again, replacing=True) == (["unchanged", "replaced", "unchanged"], [b"3"])


def test_vectors_need_no_network(collection: Collection) -> None:
    vector = np.ones(D, np.float32)
    assert put(collection, Incoming("v", hash_vector(vector), vector=vector)) == (["created"], [])


def test_an_image_that_is_refused_fails_alone(collection: Collection) -> None:
    ingest = Ingest(collection, [image("a", b"1"), image("b", b"2")], replacing=False)
    refusal = UnsupportedImageType("no image")
    ingest.put([refusal, embedded(1)])
    assert ingest.done
    assert [result.error for result in ingest.results] == [refusal, None]
    assert collection.count() == 1


def test_a_point_that_was_deleted_meanwhile_is_embedded_after_all(collection: Collection) -> None:
    put(collection, image("a", b"1"))
    ingest = Ingest(collection, [image("a", b"1")], replacing=False)
    assert ingest.images == []
    collection.delete(ids=["a"])
    ingest.put([])
    assert not ingest.done
    assert ingest.images == [b"1"]
    ingest.put([embedded(2)])
    assert ingest.done
    assert [result.status for result in ingest.results] == ["created"]


def test_a_point_that_is_overtaken_again_is_a_conflict(collection: Collection) -> None:
    put(collection, image("a", b"1"))
    ingest = Ingest(collection, [image("a", b"1")], replacing=False)
    put(collection, image("a", b"2"), replacing=True)
    ingest.put([])
    ingest.put([embedded(2)])
    assert ingest.done
    assert [type(result.error) for result in ingest.results] == [PointConflict]


def test_a_request_is_refused_as_a_whole_before_anything_is_embedded(collection: Collection) -> None:
    with pytest.raises(DuplicateId):
        Ingest(collection, [image("a", b"1"), image("a", b"2")], replacing=False)
    vector = np.ones(D + 1, np.float32)
    with pytest.raises(DimensionMismatch):
        Ingest(collection, [Incoming("v", hash_vector(vector), vector=vector)], replacing=False)
