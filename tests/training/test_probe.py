"""The online scores, by labels in one process and both in two. Also a rank's program: `test_probe.py RANK FOLDER DIGITS`."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from backbone.decode import DecodeLimits
from backbone.listing import ListedImage, list_images
from backbone.model import Backbone, Tokens
from backbone.preprocess import Preprocess
from backbone.vote import knn_accuracy
from training.probe import LEAST_QUERIES, Probe, Split, split_images
from training.two_views import TwoViewProbe
from training.views import ViewConfig

RANKS = 2
VIEWS = ViewConfig(16, 8, 2, (0.6, 1.0), (0.2, 0.5), 0.0, 0.2, 0.2, 0.0, "off")


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


def unlabelled(count: int) -> list[ListedImage]:
    return [dataclasses.replace(image, label=None) for image in listed(count)]


@pytest.mark.parametrize("images", [listed(500, labels=1), unlabelled(500)])
def test_without_classes_to_tell_apart_images_are_held_out_without_their_labels(images: list[ListedImage]) -> None:
    split = split_images(images, 0.1, 2000, seed=0)
    held_out = {image.id for image in split.unlabelled}
    assert 25 < len(held_out) < 75
    assert not split.queries
    assert not split.bank
    assert split.training == [image for image in images if image.id not in held_out]


def test_the_same_images_are_held_out_whether_or_not_labels_are_used() -> None:
    with_labels = split_images(listed(500), 0.1, 2000, seed=0).queries
    without = split_images(unlabelled(500), 0.1, 2000, seed=0).unlabelled
    assert [image.id for image in without] == [image.id for image in with_labels]


def test_with_labels_only_labelled_images_are_held_out() -> None:
    others = [ListedImage(f"more/{n}.png", Path(f"more/{n}.png"), None) for n in range(300)]
    split = split_images([*listed(500), *others], 0.1, 2000, seed=0)
    assert split.queries == split_images(listed(500), 0.1, 2000, seed=0).queries
    assert not split.unlabelled
    assert {image.id for image in others} <= {image.id for image in split.training}


def test_too_few_labels_are_as_good_as_none() -> None:
    few = [*listed(20), *unlabelled(500)[20:]]
    split = split_images(few, 0.1, 2000, seed=0)
    assert not split.queries
    assert len(split.unlabelled) > LEAST_QUERIES


def test_images_held_out_without_labels_are_limited_and_stay_when_others_join() -> None:
    assert len(split_images(unlabelled(4000), 0.2, 400, seed=0).unlabelled) == 100
    before = {image.id for image in split_images(unlabelled(500), 0.1, 2000, seed=0).unlabelled}
    assert before <= {image.id for image in split_images(unlabelled(600), 0.1, 2000, seed=0).unlabelled}


@pytest.mark.parametrize("images", [listed(20), unlabelled(20), listed(500, labels=1)[:50]])
def test_nothing_is_held_out_where_it_would_say_nothing(images: list[ListedImage]) -> None:
    split = split_images(images, 0.1, 2000, seed=0)
    assert split.training == images
    assert not split.queries
    assert not split.unlabelled


def test_images_are_held_out_from_the_least_number_on() -> None:
    images = unlabelled(500)
    enough = split_images(images, 0.1, LEAST_QUERIES * 4, seed=0)
    assert len(enough.unlabelled) == LEAST_QUERIES
    assert split_images(images, 0.1, LEAST_QUERIES * 4 - 1, seed=0).unlabelled == []
    assert split_images(images, 0.0, 2000, seed=0).training == images


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


class Pixels(Backbone):
    """Gives the pixels as a vector, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.pooling = 3 * 16 * 16, "cls+mean"
        self.scale = torch.nn.Parameter(torch.ones(()))

    def tokens(self, x: torch.Tensor, masks: torch.Tensor | None = None) -> Tokens:
        rows = x.flatten(1) * self.scale
        return Tokens(rows, rows[:, None])


def scenarios(digits: Path, folder: Path) -> dict[str, Split]:
    """Splits whose parts fall unevenly to two ranks, damaged files included."""
    split = split_images(list_images(digits).images, 0.3, 81, seed=0)
    bad = folder / "bad.png"
    bad.write_bytes(b"no image")
    damaged = [*split.bank]
    for position in (0, 1, 3, 40):
        damaged[position] = ListedImage(f"bad {position}", bad, damaged[position].label)
    return {
        "whole": split,
        "damaged": dataclasses.replace(split, bank=damaged),
        "one query": dataclasses.replace(split, queries=split.queries[:1]),
        "one that cannot be read": dataclasses.replace(split, queries=[damaged[0]]),
        "no query": dataclasses.replace(split, queries=[]),
    }


def scores(digits: Path, folder: Path) -> dict[str, float | None]:
    """Score on each of them."""
    network, found = Pixels(), {}
    for name, split in scenarios(digits, folder).items():
        found[name] = Probe(split, Preprocess.for_image_size(16), DecodeLimits()).score(network)
    images, gone = list_images(digits).images[:81], ListedImage("gone.png", folder / "gone.png", None)
    lists = {"all": images, "some": [gone, *images[:5], gone, gone], "one rank's": [images[0], gone, images[1]]}
    for name, part in {**lists, "one": images[:1], "two": images[:2], "none": []}.items():
        found[f"two views of {name}"] = TwoViewProbe(part, VIEWS, 0, DecodeLimits()).score(network)
    return found


def test_two_processes_share_the_images_and_get_the_score_of_one(digits: Path, tmp_path: Path) -> None:
    alone = scores(digits, tmp_path)
    without = [name for name, score in alone.items() if score is None]
    assert without == ["one that cannot be read", "no query", "two views of one", "two views of none"]
    for name in ("whole", "damaged", "two views of all"):  # a score of 0 or 1 could not tell a mistake
        assert 0.05 < (alone[name] or 0.0) < 1.0
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, __file__]
    ranks = [
        subprocess.Popen(
            [*command, str(number), str(tmp_path), str(digits)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for number in range(RANKS)
    ]
    try:
        for process in ranks:
            _, errors = process.communicate(timeout=100)
            assert process.returncode == 0, errors
    finally:
        for process in ranks:
            process.kill()
    for number in range(RANKS):
        assert json.loads((tmp_path / f"{number}.json").read_text()) == alone


if __name__ == "__main__":
    number, folder = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=RANKS)
    (folder / f"{number}.json").write_text(json.dumps(scores(Path(sys.argv[3]), folder)))
    dist.destroy_process_group()
