"""The online score: how well the teacher's vectors classify held-out images by their nearest neighbours.

The vectors are those that the service will give: `backbone.embedding` with the teacher, then `backbone.vote`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backbone.decode import DecodeLimits
from backbone.embedding import embed_files
from backbone.listing import ListedImage
from backbone.model import Backbone
from backbone.preprocess import Preprocess
from backbone.vote import knn_accuracy
from training.randomness import seed_of

LEAST_QUERIES = 10  # a share of fewer images says nothing


@dataclass(frozen=True)
class Split:
    """The images of a run: those that train, and of the labelled ones those that only score."""

    training: list[ListedImage]
    bank: list[ListedImage]  # a sample of the training images
    queries: list[ListedImage]  # never trained on


def split_images(images: Sequence[ListedImage], share: float, bank: int, seed: int) -> Split:
    """Keep a share of the labelled images out of training.

    Whether an image is kept out depends on its id and the seed, so images that join the set later leave the others in place.

    Args:
        images: all images.
        share: of the labelled images that are kept out; without at least `LEAST_QUERIES` of them, or with one class, none are.
        bank: most images in the bank; there are at most a quarter as many queries.
        seed: of the run.
    """
    everything = Split(list(images), [], [])
    labelled = [image for image in images if image.label is not None]
    if len({image.label for image in labelled}) < 2:
        return everything
    draw = {image.id: seed_of(f"held out {image.id}", seed) / 2**63 for image in labelled}
    by_draw = sorted(labelled, key=lambda image: draw[image.id])
    queries = [image for image in by_draw if draw[image.id] < share][: max(bank // 4, 1)]
    if len(queries) < LEAST_QUERIES:
        return everything
    held_out = {image.id for image in queries}
    training = [image for image in images if image.id not in held_out]
    return Split(training, by_draw[len(queries) :][:bank], queries)


class Probe:
    """Scores a backbone on a split."""

    def __init__(self, split: Split, preprocess: Preprocess, limits: DecodeLimits) -> None:
        self._preprocess, self._limits = preprocess, limits
        self._split = split
        classes = sorted({image.label for image in split.bank + split.queries if image.label is not None})
        self._class_index = {label: number for number, label in enumerate(classes)}

    def score(self, network: Backbone) -> float | None:
        """Return the kNN accuracy, 0 to 1; None where there is nothing to score. The network's mode is put back."""
        bank, bank_labels = self._embed(network, self._split.bank)
        queries, query_labels = self._embed(network, self._split.queries)
        if not len(bank_labels) or not len(query_labels):
            return None
        return knn_accuracy(bank, bank_labels, queries, query_labels)

    def _embed(self, network: Backbone, images: Sequence[ListedImage]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Embed the images that can be decoded, with their classes; the others are training's to report."""
        vectors, positions = embed_files(network, self._preprocess, [image.path for image in images], self._limits)
        labels = [self._class_index[label] for position in positions if (label := images[position].label) is not None]
        return vectors, np.array(labels, dtype=np.int64)
