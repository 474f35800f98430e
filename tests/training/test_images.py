from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch
from pictures import encoded, picture
from torch.utils.data import DataLoader

from backbone.decode import DecodeLimits
from backbone.listing import list_images
from training.config import TrainingConfig, section
from training.errors import TooManyCorrupt
from training.images import Batch, Refusal, RefusalLog, TrainingImages, collate
from training.sampling import Batches
from training.views import MultiCrop, ViewConfig

VIEWS = {
    "image_size": 16,
    "local_size": 8,
    "local_views": 1,
    "global_scale": (0.4, 1.0),
    "local_scale": (0.2, 0.4),
    "blur": "off",
}


def images_of(folder: Path) -> TrainingImages:
    config = section(TrainingConfig.from_values(VIEWS), ViewConfig)
    return TrainingImages(list_images(folder).images, MultiCrop(config, seed=0), DecodeLimits(), seed=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(encoded(picture(seed=number)))
    return tmp_path


def test_a_corrupt_image_is_replaced_by_the_same_other_one_every_time(folder: Path) -> None:
    (folder / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    images = images_of(folder)
    first, again = images[(0, 3)], images_of(folder)[(0, 3)]
    assert [refusal.image for refusal in first.refusals] == [3]
    assert all(torch.equal(a, b) for a, b in zip(first.views, again.views, strict=True))
    assert images[(0, 2)].refusals == []


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8\xff\xe0broken"])
def test_empty_and_foreign_files_are_replaced_too(folder: Path, content: bytes) -> None:
    (folder / "0.png").write_bytes(content)
    assert images_of(folder)[(0, 0)].refusals[0].image == 0


def test_u12_a_pipe_and_what_is_larger_than_an_image_are_replaced_and_not_waited_for(folder: Path) -> None:
    for name in ("2.png", "6.png"):
        (folder / name).unlink()
    os.mkfifo(folder / "2.png")
    (folder / "6.png").touch()
    os.truncate(folder / "6.png", DecodeLimits.max_bytes + 1)
    images = images_of(folder)
    assert "not a regular file" in images[(0, 2)].refusals[0].reason
    assert images[(0, 6)].refusals[0].reason.startswith("TooManyBytes")


def test_a_file_that_vanished_since_the_listing_is_replaced(folder: Path) -> None:
    images = images_of(folder)
    (folder / "5.png").unlink()
    assert images[(0, 5)].refusals[0].reason.startswith("PathMissing")


def test_a_set_without_one_good_image_ends_instead_of_searching_for_ever(folder: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(TooManyCorrupt, match="Check the folder"):
        images_of(folder)[(0, 0)]


def batches_with(folder: Path, workers: int) -> list[Batch]:
    # Workers from a server: this process has threads of many libraries and is not fit to be forked.
    loader = DataLoader(
        images_of(folder),
        batch_sampler=Batches(8, 4, seed=0),
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
    )
    stream = iter(loader)
    return [next(stream) for _ in range(5)]


def test_batches_are_the_same_whatever_the_number_of_workers(folder: Path) -> None:
    (folder / "3.png").write_bytes(b"")
    alone, helped = batches_with(folder, 0), batches_with(folder, 2)
    for a, b in zip(alone, helped, strict=True):
        assert torch.equal(a.global_views, b.global_views)
        assert a.local_views is not None
        assert b.local_views is not None
        assert torch.equal(a.local_views, b.local_views)
        assert a.refusals == b.refusals


def test_a_path_is_logged_once_and_the_count_is_of_paths(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    refusals = RefusalLog(list_images(folder).images)
    with caplog.at_level(logging.WARNING):
        refusals.add([Refusal(3, "broken"), Refusal(3, "broken")])
        refusals.add([Refusal(3, "broken")])
    assert refusals.refused == {3}
    assert sum("3.png" in record.message for record in caplog.records) == 1


def test_more_than_one_image_in_a_hundred_stops_the_run_and_exactly_one_does_not() -> None:
    from backbone.listing import ListedImage

    refusals = RefusalLog([ListedImage(str(n), Path(str(n)), None) for n in range(300)])
    refusals.add([Refusal(n, "broken") for n in range(3)])
    refusals.share(torch.device("cpu"))
    refusals.add([Refusal(7, "broken")])
    with pytest.raises(TooManyCorrupt, match="4 of 300 images cannot be used, more than 1 %"):
        refusals.share(torch.device("cpu"))
