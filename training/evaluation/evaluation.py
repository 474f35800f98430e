"""The scores of an artifact on labelled images: nearest neighbours, a linear probe, retrieval and clusters, all from the same vectors.

The vectors are those that the service stores and the vote is the one it gives, so the kNN accuracy is what `classify` reaches on the
same images. Neighbours as in DINO's evaluation (Caron et al. 2021, arXiv:2104.14294): k of 10, 20, 100 and 200 at temperature 0.07.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from backbone.artifact import Artifact, load_artifact
from backbone.dim_images import dim_note
from backbone.embedding import Embedded, embed_and_hash
from backbone.errors import ArtifactInvalid
from backbone.listing import ListedImage, list_images
from backbone.model import Backbone
from backbone.value_range import ValueRange
from backbone.vote import nearest, vote
from training.errors import DataTooSmall
from training.evaluation.clusters import ClusteringScores, score_clustering
from training.evaluation.feature_cache import cached, key_of
from training.evaluation.linear_probe import LinearScores, score_linear
from training.evaluation.retrieval import RetrievalScores, score_retrieval

NEIGHBOURS = (10, 20, 100, 200)  # the paper's
LEAST_CLASSES = 2  # with one, every answer is right
NAMES_SHOWN = 5  # in a remark: it stays a line

Say = Callable[[str], None]
Labels = NDArray[np.int64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Counts:
    """Images. left_out: cannot be read or decoded; unknown: of classes that are not in train; leaked: byte for byte also in train."""

    train: int
    validation: int
    train_left_out: int
    validation_left_out: int
    classes: int  # in train
    unknown: int
    leaked: int


@dataclass(frozen=True)
class Timing:
    """Where the time went: into vectors (or reading them from the cache), and into the scores."""

    features_s: float
    scores_s: float
    images_per_s: float  # train and validation together, over scores_s


@dataclass(frozen=True)
class Evaluation:
    """The whole result: scores from 0 to 1 (ARI from -0.5), knn by k as text; notes are what a reader has to know, a sentence each."""

    fingerprint: str
    counts: Counts
    knn: dict[str, float]
    linear: LinearScores
    retrieval: RetrievalScores
    clustering: ClusteringScores
    timing: Timing
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Listed:
    """The images in the class folders of one folder, and remarks on what else is there."""

    source: Path
    images: list[ListedImage]
    notes: list[str]


@dataclass(frozen=True)
class _Features:
    """The images that became vectors [n, D], with their classes and the sha256 of their files; and remarks on what did not."""

    vectors: Vectors
    classes: list[str]
    digests: list[bytes]
    left_out: int
    notes: list[str]


def evaluate(
    artifact: Path,
    train: Path,
    validation: Path,
    cache: Path | None = None,
    seed: int = 0,
    say: Say = lambda _: None,
    exclude: Sequence[str] = (),
    value_range: ValueRange | None = None,
) -> Evaluation:
    """Score an artifact: the training images are the memory, the validation images the questions.

    Args:
        artifact: its directory.
        train: a folder of class folders.
        validation: another.
        cache: where vectors are kept for the next time; None keeps none.
        seed: of the probe's held-out part and of k-means.
        value_range: what is black and white in grey of 16 and 32 bits; None leaves that to the artifact.
        say: prints a line when images have to be embedded, and what a listing left out.
        exclude: patterns of paths that are left out of both folders.

    Raises:
        PathMissing, StorageFailed, DataInvalid, ArtifactInvalid: see `backbone.errors`.
        DataTooSmall: no labels, or only one class that can be read.
    """
    loaded = dataclasses.replace(load_artifact(artifact), value_range=value_range)
    listed = [_list(source, exclude, say) for source in (train, validation)]  # mistakes first, work later
    if (
        loaded.preprocess.value_range is None
        and (dim := dim_note([image for each in listed for image in each.images])) is not None
    ):
        say(f"{dim}: --value-range 0:4095")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = functools.cache(lambda: _network(loaded, device))  # what is kept needs none
    began = time.perf_counter()
    bank, queries = [_embed(found, loaded, network, cache, say) for found in listed]
    embedded = time.perf_counter()

    names = sorted(set(bank.classes))
    names += sorted(set(queries.classes) - set(names))  # a class that train lacks has a number that no answer has
    number = {name: i for i, name in enumerate(names)}
    memory = bank.vectors, np.array([number[name] for name in bank.classes])
    questions = queries.vectors, np.array([number[name] for name in queries.classes])
    knn = score_neighbours(*memory, *questions)
    linear = score_linear(*memory, *questions, seed, device)
    retrieval = score_retrieval(*memory, *questions)
    clustering = score_clustering(*questions, seed)
    scores_s = time.perf_counter() - embedded

    counts = _count(bank, queries)
    timing = Timing(embedded - began, scores_s, (counts.train + counts.validation) / scores_s)
    notes = (*bank.notes, *queries.notes, *_remarks(bank, queries, counts))
    return Evaluation(loaded.fingerprint, counts, knn, linear, retrieval, clustering, timing, notes)


def score_neighbours(bank: Vectors, bank_labels: Labels, queries: Vectors, query_labels: Labels) -> dict[str, float]:
    """Return, by k as text, the share of queries [Q, D] whose k nearest in the bank [M, D] vote for their label; k is capped at M."""
    scores, rows = nearest(queries, bank, max(NEIGHBOURS))
    labels, classes = bank_labels[rows], int(bank_labels.max()) + 1
    votes = {k: vote(scores[:, :k], labels[:, :k], classes) for k in NEIGHBOURS}
    return {str(k): float(np.mean(found.argmax(axis=1) == query_labels)) for k, found in votes.items()}


def _list(source: Path, exclude: Sequence[str], say: Say) -> _Listed:
    found = list_images(source, exclude=exclude)
    for note in found.notes:
        say(f"{source}: {note}")
    if not found.classes:
        raise DataTooSmall(
            f"{source} has no class folders, and without labels nothing can be scored; put each class into a folder of its own."
        )
    _demand_classes(source, found.classes)
    images = [image for image in found.images if image.label is not None]
    notes = []
    if beside := len(found) - len(images):
        notes.append(f"{source}: left out because they are in no class folder: {beside:,} of {len(found):,} images.")
    # Path.is_dir raises where a link leads to what cannot be looked at.
    folders = {path.name for path in source.iterdir() if os.path.isdir(path)} if source.is_dir() else set()  # noqa: PTH112
    if empty := sorted(name for name in folders - set(found.classes) if found.scope.enters([name])):
        notes.append(f"{source}: class folders without images: {_some(empty)}.")
    return _Listed(source, images, notes)


def _demand_classes(source: Path, classes: Sequence[str]) -> None:
    if len(classes) < LEAST_CLASSES:
        found = f"only images of the class {classes[0]}" if classes else "no images that can be read"
        raise DataTooSmall(f"{source} holds {found}; a score needs at least {LEAST_CLASSES} class folders with images.")


def _network(artifact: Artifact, device: torch.device) -> Backbone:
    """Build the network on `device` and let it prove itself on the golden images."""
    network = artifact.model.to(device)

    @torch.inference_mode()
    def run(pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        tokens = network.tokens(torch.from_numpy(pixels).to(device))
        return tokens.global_token.cpu().numpy(), tokens.patch_tokens.cpu().numpy()

    artifact.self_test(run)
    return network


def _embed(
    listed: _Listed, artifact: Artifact, network: Callable[[], Backbone], cache: Path | None, say: Say
) -> _Features:
    source, images = listed.source, listed.images

    def embed() -> Embedded:
        say(f"embedding {len(images):,} images of {source}")
        return embed_and_hash(network(), artifact.preprocess, [image.path for image in images])

    done = cached(cache, key_of(artifact.fingerprint, images), embed)
    if not np.isfinite(done.vectors).all():
        raise ArtifactInvalid(f"{artifact.path} gives vectors that are not finite; export an earlier checkpoint.")
    positions = set(done.positions.tolist())
    left_out = [image.id for position, image in enumerate(images) if position not in positions]
    classes = [str(images[position].label) for position in done.positions]
    _demand_classes(source, sorted(set(classes)))
    notes = list(listed.notes)
    if left_out:
        notes.append(f"{source}: left out because they cannot be decoded: {len(left_out):,} images, {_some(left_out)}.")
    return _Features(done.vectors, classes, [bytes(digest) for digest in done.digests], len(left_out), notes)


def _count(bank: _Features, queries: _Features) -> Counts:
    known, seen = set(bank.classes), set(bank.digests)
    return Counts(
        train=len(bank.classes),
        validation=len(queries.classes),
        train_left_out=bank.left_out,
        validation_left_out=queries.left_out,
        classes=len(known),
        unknown=sum(name not in known for name in queries.classes),
        leaked=sum(digest in seen for digest in queries.digests),
    )


def _remarks(bank: _Features, queries: _Features, counts: Counts) -> list[str]:
    """Say what a reader of the scores has to know about the two sets together."""
    remarks = []
    if counts.leaked:
        remarks.append(
            f"{counts.leaked:,} of {counts.validation:,} validation images are also in train, byte for byte:"
            " on them the scores measure memory."
        )
    if counts.unknown:
        names = sorted(set(queries.classes) - set(bank.classes))
        remarks.append(
            f"{counts.unknown:,} of {counts.validation:,} validation images count as wrong,"
            f" because train lacks their classes: {_some(names)}."
        )
    if capped := [str(k) for k in NEIGHBOURS if k > counts.train]:
        remarks.append(f"k of {' and '.join(capped)}: all {counts.train:,} training images vote, there are no more.")
    return remarks


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN:,} more"
