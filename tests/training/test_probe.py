from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backbone.decode import DecodeLimits
from backbone.listing import ListedImage, list_images
from backbone.model import Backbone
from backbone.preprocess import Preprocess
from backbone.vote import knn_accuracy
from training.probe import Probe, split_images


def listed(count: int, labels: int = 5) -> list[ListedImage]:
    return [ListedImage(f"{n % labels}/{n}.png", Path(f"{n}.png"), str(n % labels)) for n in range(count)]


def test_held_out_images_are_neither_trained_on_nor_in_the_bank() -> None:
    split = split_images(listed(500), 0.1, 2000, seed=0)
    queries = {image.id for image in split.queries}
    assert 25 < len(queries) < 75
    assert not queries & {image.id for image in split.training}
    assert {image.id for image in split.bank} <= {image.id for image in split.training}
    assert len(split.training) + len(queries) == 500


def test_images_that_join_leave_the_others_where_they_were() -> None:
    before = {image.id for image in split_images(listed(500), 0.1, 2000, seed=0).queries}
    after = {image.id for image in split_images(listed(600), 0.1, 2000, seed=0).queries}
    assert before <= after
    assert before != {image.id for image in split_images(listed(500), 0.1, 2000, seed=1).queries}


def test_the_bank_and_the_queries_are_limited() -> None:
    split = split_images(listed(4000), 0.2, 400, seed=0)
    assert len(split.bank) == 400
    assert len(split.queries) == 100
    assert len(split.training) == 3900


@pytest.mark.parametrize(
    "images", [listed(500, labels=1), [ListedImage(str(n), Path(str(n)), None) for n in range(500)], listed(20)]
)
def test_nothing_is_held_out_where_it_would_say_nothing(images: list[ListedImage]) -> None:
    split = split_images(images, 0.1, 2000, seed=0)
    assert split.training == images
    assert not split.queries


def test_the_score_is_the_vote_over_the_vectors_that_the_service_gives(digits: Path, tiny_vit: Backbone) -> None:
    images = list_images(digits)
    split = split_images(images.images, 0.2, 120, seed=0)
    preprocess = Preprocess.for_image_size(16)
    tiny_vit.train()
    score = Probe(split, preprocess, DecodeLimits()).score(tiny_vit)
    assert tiny_vit.training

    tiny_vit.eval()

    def vectors(chosen: list[ListedImage]) -> np.ndarray:
        with torch.no_grad():
            one_by_one = [tiny_vit.embed(torch.from_numpy(preprocess(i.path.read_bytes()))[None]) for i in chosen]
        return torch.cat(one_by_one).numpy()

    def labels(chosen: list[ListedImage]) -> np.ndarray:
        return np.array([images.classes.index(str(image.label)) for image in chosen])

    expected = knn_accuracy(vectors(split.bank), labels(split.bank), vectors(split.queries), labels(split.queries))
    assert score == pytest.approx(expected, abs=1.5 / len(split.queries))


def test_an_image_that_cannot_be_decoded_is_left_out_of_the_score(
    digits: Path, tiny_vit: Backbone, tmp_path: Path
) -> None:
    split = split_images(list_images(digits).images, 0.2, 120, seed=0)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    split.queries[0] = ListedImage("bad.png", bad, split.queries[0].label)
    assert Probe(split, Preprocess.for_image_size(16), DecodeLimits()).score(tiny_vit) is not None


def test_without_queries_there_is_no_score(digits: Path, tiny_vit: Backbone) -> None:
    split = split_images(list_images(digits, labels="none").images, 0.2, 120, seed=0)
    assert Probe(split, Preprocess.for_image_size(16), DecodeLimits()).score(tiny_vit) is None
