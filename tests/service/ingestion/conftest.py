"""A folder of two classes of pictures, and a collection that folders are indexed into, for the tests of the batch job and its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from backbone.listing import list_images
from service.embedding.embedder import Embedded
from service.ingestion.job import IndexResult, index_folder
from service.ingestion.local_sink import LocalSink, Once
from service.library.library import Collection, Library
from service.points import NewPoint, Source, hash_image

PER_CLASS = 3
D = 4


@pytest.fixture
def folder(tmp_path: Path, png: Callable[..., bytes]) -> Path:
    root = tmp_path / "images"
    for first_seed, label in ((10, "cat"), (20, "dog")):
        (root / label).mkdir(parents=True)
        for index in range(PER_CLASS):
            (root / label / f"{index}.png").write_bytes(png(seed=first_seed + index))
    return root


class NoNetwork:
    """Embeds whatever it is given, so that a file may hold any bytes."""

    def embed(self, images: Sequence[bytes], **_: object) -> list[Embedded]:
        return [Embedded(np.eye(D, dtype=np.float32)[0], None, 0.0, 0.0, 0.0) for _ in images]


class Photos:
    """A collection, and `dinodex index` into it, without a network."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.sink = LocalSink(collection, Once(NoNetwork))  # type: ignore[arg-type]

    def index(
        self, source: Path, formats: tuple[str, ...] = ("JPEG", "PNG"), exclude: Sequence[str] = (), **options: object
    ) -> IndexResult:
        return index_folder(list_images(source, formats, exclude=exclude), self.sink, **options)  # type: ignore[arg-type]

    def put(self, id_: str, data: bytes, source: Source | None = None) -> None:
        """Put a point, as the service does without a source."""
        self.collection.put([NewPoint(id_, hash_image(data), np.ones(D), source=source)])

    @property
    def files(self) -> dict[str, str | None]:
        """The file that each point came from."""
        stored = self.collection.stored()
        return {id_: each.source and each.source.path for id_, each in sorted(stored.items())}

    def has(self, id_: str, data: bytes) -> bool:
        return self.collection.stored([id_])[id_].content_hash == hash_image(data)


@pytest.fixture
def photos(tmp_path: Path) -> Iterator[Photos]:
    with Library.open(tmp_path / "data") as library:
        yield Photos(library.create("photos", "f" * 64, D)[0])


@pytest.fixture
def filled(tmp_path: Path) -> Callable[..., Path]:
    """Write files, each with its own name as content, and return their folder."""

    def write(name: str, *files: str, content: str = "") -> Path:
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(content + file)
        return tmp_path / name

    return write
