"""Points that a batch job puts into a service, beside those it puts into a data directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pictures import encoded, picture

from backbone import Artifact
from backbone.listing import list_images
from dinodex import Client
from dinodex.remote_sink import RemoteSink
from service.ingestion.job import index_folder
from service.ingestion.local_sink import LocalSink, open_local_sink
from service.settings import load_settings

FILES = ("top.png", "cat/1.png", "cat/deep/2.png", "dog/3.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(FILES):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(seed=seed)))
    return tmp_path / "photos"


@pytest.fixture
def local(tiny_artifact: Artifact, tmp_path: Path) -> Iterator[LocalSink]:
    settings = load_settings(artifact=tiny_artifact.path, data=tmp_path / "local", runtime="torch", threads=1)
    with open_local_sink(settings, "photos") as sink:
        yield sink


def test_u21_labels_are_the_same_in_a_service_and_in_a_data_directory_whatever_was_there(
    client: Client, local: LocalSink, folder: Path
) -> None:
    remote, photos = RemoteSink(client, "photos"), client.collection("photos")
    (folder.parent / "labels.csv").write_text("top.png,high\ncat/1.png,lion\n")
    by_folder = dict(zip(FILES, (None, "cat", "cat", "dog"), strict=True))
    by_table = dict(zip(FILES, ("high", "lion", None, None), strict=True))
    nothing = dict.fromkeys(FILES)
    for labels, expected in (
        ("folders", by_folder),
        ("none", nothing),
        (folder.parent / "labels.csv", by_table),
        ("folders", by_folder),
        (folder.parent / "labels.csv", by_table),
        ("none", nothing),
    ):
        listing = list_images(folder, labels=labels)
        figures = [index_folder(listing, sink) for sink in (remote, local)]
        assert len({(each.created, each.replaced, each.unchanged, each.refused) for each in figures}) == 1
        assert {point.id: point.label for point in photos.scroll()} == expected
        assert {id_: known.label for id_, known in local.known().items()} == expected
