"""The online kNN probe: how well the teacher's vectors classify held-out images by their nearest neighbours.

The vectors are those that the service will give: `backbone.embedding` with the teacher, then `backbone.vote`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backbone.decode import DecodeLimits
from backbone.embedding import embed_files
from backbone.listing import ListedImage
from backbone.model import Backbone
from backbone.preprocess import Preprocess
from backbone.vote import knn_accuracy
from training.distributed import all_objects, rank, world_size
from training.randomness import seed_of

LEAST_QUERIES = 10  # a share of fewer images says nothing


@dataclass(frozen=True)
class Split:
    """The images of a run: those that train, and those that only score: `queries` where there are labels, else `unlabelled`."""

    training: list[ListedImage]
    bank: list[ListedImage]  # a sample of the labelled training images
    queries: list[ListedImage]  # labelled, never trained on
    unlabelled: list[ListedImage] = field(
        default_factory=list
    )  # never trained on; what labels they have are not looked at


def split_images(images: Sequence[ListedImage], share: float, bank: int, seed: int) -> Split:
    """Keep a share of the images out of training: of the labelled ones where they can be classified, else of all.

    Whether an image is kept out depends on its id and the seed, so images that join the set later leave the others in place.

    Args:
        images: all images.
        share: of the images that are kept out; where that gives fewer than `LEAST_QUERIES`, none are.
        bank: most images in the bank; at most a quarter as many are kept out.
        seed: of the run.
    """
    labelled = [image for image in images if image.label is not None]
    most = max(bank // 4, 1)
    if len({image.label for image in labelled}) > 1:
        queries, others = _hold_out(labelled, share, most, seed)
        if queries:
            return Split(_without(images, queries), others[:bank], queries)
    unlabelled, _ = _hold_out(images, share, most, seed)
    return Split(_without(images, unlabelled), [], [], unlabelled)


class Probe:
    """Scores a backbone on the labelled images of a split, each process its share of them."""

    column = "knn"  # its name in the log

    def __init__(self, split: Split, preprocess: Preprocess, limits: DecodeLimits) -> None:
        self._preprocess, self._limits = preprocess, limits
        self._split = split
        classes = sorted({image.label for image in split.bank + split.queries if image.label is not None})
        self._class_index = {label: number for number, label in enumerate(classes)}

    def score(self, network: Backbone) -> float | None:
        """Return the kNN accuracy, 0 to 1; None where there is nothing to score. The network's mode is put back.

        A collective: every rank calls it, and gets the same number.
        """
        bank, bank_labels = self._embed(network, self._split.bank)
        queries, query_labels = self._embed(network, self._split.queries)
        if not len(bank_labels) or not len(query_labels):
            return None
        return knn_accuracy(bank, bank_labels, queries, query_labels)

    def _embed(self, network: Backbone, images: Sequence[ListedImage]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Embed the images that can be decoded, with their classes; the others are training's to report."""
        mine = images[rank() :: world_size()]
        vectors, found = embed_files(network, self._preprocess, [image.path for image in mine], self._limits)
        positions, vectors = gathered([rank() + world_size() * position for position in found], vectors)
        labels = [self._class_index[label] for position in positions if (label := images[position].label) is not None]
        return vectors, np.array(labels, dtype=np.int64)


def gathered(positions: Sequence[int], rows: NDArray[np.float32]) -> tuple[list[int], NDArray[np.float32]]:
    """Put together what each rank made of its share of a list, in the order of the list: nothing is padded, so nothing is twice.

    A collective.

    Args:
        positions: of this rank's rows in the list, ascending; no other rank has them.
        rows: [n, ...] as many rows; n may be 0.

    Returns:
        All positions, ascending, and all rows [N, ...].
    """
    parts = all_objects((list(positions), rows))
    with_rows = [part for part in parts if part[0]] or parts[:1]
    everywhere = np.concatenate([np.asarray(part, dtype=np.int64) for part, _ in with_rows])
    order = np.argsort(everywhere)
    return everywhere[order].tolist(), np.concatenate([part for _, part in with_rows])[order]


def _hold_out(
    images: Sequence[ListedImage], share: float, most: int, seed: int
) -> tuple[list[ListedImage], list[ListedImage]]:
    """The images that are kept out, none where they would be too few to score, and the others; both in the order of their draw."""
    draw = {image.id: seed_of(f"held out {image.id}", seed) / 2**63 for image in images}
    by_draw = sorted(images, key=lambda image: draw[image.id])
    held_out = [image for image in by_draw if draw[image.id] < share][:most]
    if len(held_out) < LEAST_QUERIES:
        return [], by_draw
    return held_out, by_draw[len(held_out) :]


def _without(images: Sequence[ListedImage], held_out: Sequence[ListedImage]) -> list[ListedImage]:
    ids = {image.id for image in held_out}
    return [image for image in images if image.id not in ids]
