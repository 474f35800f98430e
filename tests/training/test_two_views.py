"""Recall between two views in one process; `test_probe` has the score in two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backbone.decode import DecodeLimits, decode
from backbone.listing import ListedImage, list_images
from backbone.model import Backbone, Tokens
from training.randomness import seed_of
from training.two_views import TwoViewProbe
from training.views import MultiCrop, ViewConfig, normalised

VIEWS = ViewConfig(
    image_size=16,
    local_size=8,
    local_views=3,
    global_scale=(0.6, 1.0),
    local_scale=(0.2, 0.5),
    horizontal_flip=0.0,
    color_jitter=0.2,
    grayscale=0.2,
    solarize=0.0,
    blur="off",
)


def some(digits: Path, count: int = 60) -> list[ListedImage]:
    return list_images(digits, labels="none").images[:count]


class Fixed(Backbone):
    """A network that has learnt nothing: it gives the pixels as a vector, or every image the same one."""

    def __init__(self, *, constant: bool = False) -> None:
        super().__init__()
        self.dim, self._constant = 3 * 16 * 16, constant
        self.seen: list[torch.Tensor] = []
        self.scale = torch.nn.Parameter(torch.ones(()))

    def tokens(self, x: torch.Tensor, masks: torch.Tensor | None = None) -> Tokens:
        assert not self.training
        self.seen.append(x.clone())
        rows = (torch.ones_like(x) if self._constant else x).flatten(1) * self.scale
        return Tokens(rows, rows[:, None])


def test_the_score_is_the_share_of_first_views_whose_nearest_second_view_is_their_own(digits: Path) -> None:
    images, teacher = some(digits), Fixed().train()
    score = TwoViewProbe(images, VIEWS, 5, DecodeLimits()).score(teacher)
    assert teacher.training

    teacher.eval()
    crop = MultiCrop(VIEWS, 5)
    pairs = []
    for image in images:
        drawn = crop(decode(image.path.read_bytes()), 0, seed_of(f"two views {image.id}"))[:2]
        with torch.no_grad():
            pairs.append([teacher.embed(normalised(view[None]))[0].double().numpy() for view in drawn])
    hits = [int(np.argmax([first @ other for _, other in pairs])) == place for place, (first, _) in enumerate(pairs)]
    assert 0.05 < np.mean(hits) < 1.0
    assert score == pytest.approx(np.mean(hits))


def test_it_is_the_same_at_every_score_and_changes_with_the_seed(digits: Path) -> None:
    teacher, images = Fixed(), some(digits)
    probe = TwoViewProbe(images, VIEWS, 0, DecodeLimits())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = probe.score(teacher)
    assert torch.equal(torch.get_rng_state(), state)  # and the run's own draws are left alone
    torch.manual_seed(2)
    assert probe.score(teacher) == first
    assert len({TwoViewProbe(images, VIEWS, seed, DecodeLimits()).score(teacher) for seed in range(4)}) > 1


def test_the_views_of_an_image_do_not_depend_on_the_other_images(digits: Path) -> None:
    images, whole, part = some(digits, 12), Fixed(), Fixed()
    TwoViewProbe(images, VIEWS, 0, DecodeLimits()).score(whole)
    TwoViewProbe(images[5:], VIEWS, 0, DecodeLimits()).score(part)
    assert torch.equal(whole.seen[0][2 * 5 :], part.seen[0])


def test_a_constant_network_is_at_chance_and_unchanged_views_find_each_other(digits: Path) -> None:
    images = some(digits)
    assert TwoViewProbe(images, VIEWS, 0, DecodeLimits()).score(Fixed(constant=True)) == pytest.approx(1 / 60)
    plain = ViewConfig(16, 8, 0, (1.0, 1.0), (0.2, 0.5), 0.0, 0.0, 0.0, 0.0, "off")
    assert TwoViewProbe(images, plain, 0, DecodeLimits()).score(Fixed()) == 1.0


def test_images_that_cannot_be_decoded_are_left_out_and_one_alone_has_no_score(digits: Path, tmp_path: Path) -> None:
    images, teacher = some(digits, 20), Fixed()
    gone = ListedImage("gone.png", tmp_path / "gone.png", None)
    expected = TwoViewProbe(images, VIEWS, 0, DecodeLimits()).score(teacher)
    assert TwoViewProbe([gone, *images[:7], gone, *images[7:]], VIEWS, 0, DecodeLimits()).score(teacher) == expected
    assert TwoViewProbe([*images[:2], gone], VIEWS, 0, DecodeLimits()).score(teacher) is not None
    for few in ([*images[:1], gone], [gone, gone], []):
        assert TwoViewProbe(few, VIEWS, 0, DecodeLimits()).score(teacher) is None
