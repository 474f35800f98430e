"""The demo: all steps on real images, in minutes on two CPU cores: train, export, index, serve, classify, search, cluster, report."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backbone import Artifact, ImageList, ListedImage, Preprocess, knn_accuracy, list_images
from backbone.durable import read_file, refuse_non_empty
from backbone.embedding import embed_files
from backbone.errors import ImageRefused, OutputNotEmpty
from dinodex.collection import Collection
from dinodex.demo_data import DemoData, prepare
from dinodex.demo_report import IMAGES_SHOWN, Picture, Row, read_curves, write_report
from dinodex.demo_service import running_service
from dinodex.errors import RequestRefused
from service.ingestion.job import index_folder
from service.ingestion.local_sink import open_local_sink
from service.settings import load_settings
from training.config import ResolvedConfig, TrainingConfig
from training.export import export
from training.run import TrainingResult, train
from training.start import Start

MARK = ".dinodex-demo"  # says that a directory is the demo's own and may be replaced
COLLECTION = "demo"
TRAIN_S = 120.0  # what the demo spends on training
SEARCHES, CLUSTERS = 6, 12  # shown in the report; clusters are also the k of a set without labels
SEED = 0

Say = Callable[[str], None]


@dataclass
class Measured:
    """The rows of the table that the demo prints."""

    rows: list[tuple[str, str, str]] = field(default_factory=lambda: [("what", "kNN accuracy", "images/s")])

    def add(self, what: str, accuracy: float | None = None, images_per_s: float | None = None) -> None:
        """Add a row; what was not measured is a dash."""
        shown_accuracy = "-" if accuracy is None else f"{accuracy:.1%}"
        self.rows.append((what, shown_accuracy, "-" if images_per_s is None else f"{images_per_s:,.0f}"))


def run_demo(data: str | None, out: Path, say: Say, train_s: float = TRAIN_S) -> Measured:
    """Run every step and leave RUN, artifact, data directory and report.html in `out`; the service is stopped in the end.

    Args:
        data: a folder, `imagenette`, or None for what this machine has.
        out: a directory that does not exist, is empty, or is an earlier demo's.
        say: prints a line.
        train_s: seconds of training.

    Raises:
        OutputNotEmpty: `out` holds something that no demo wrote.
    """
    _clear(out)
    chosen = prepare(data, out / "images")
    say(f"data: {chosen.why}")
    measured = Measured()
    result = _train(chosen, out, train_s, say)
    measured.add("training", images_per_s=result.images_per_s)
    artifact = export(result.run, out / "artifact")
    say(f"exported {artifact.path}, fingerprint {artifact.fingerprint[:12]}")
    bank, held_out = list_images(chosen.train), list_images(chosen.held_out)
    _index(bank, out, measured, say)
    with running_service(out / "artifact", out / "data") as client:
        collection = client.collection(COLLECTION)
        _classify(collection, held_out, measured, say)
        searches = _search(collection, bank, held_out, measured, say)
        clusters = _cluster(collection, bank, measured, say)
    _compare(artifact, result, bank, held_out, measured, say)
    curves = read_curves(result.run / "metrics.csv", [("loss", ""), ("knn", "accuracy on images held out of training")])
    write_report(
        out / "report.html", why=chosen.why, facts=measured.rows, curves=curves, searches=searches, clusters=clusters
    )
    say(f"report: {out / 'report.html'}")
    return measured


def _clear(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / MARK).exists():
            raise OutputNotEmpty(f"{out} is not empty and not a demo's; name another directory with --out.")
        for entry in out.iterdir():  # and not the directory itself, which may be a symbolic link or a mounted disk
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    refuse_non_empty(out)  # also where it cannot be written
    Path(os.path.realpath(out)).mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()


def _train(chosen: DemoData, out: Path, train_s: float, say: Say) -> TrainingResult:
    config = TrainingConfig.load(overrides=[*_training_keys(chosen), f"max_time_s={train_s}", f"seed={SEED}"])
    say(f"training for {train_s:.0f} s ...")
    return train(chosen.train, out / "run", config)


def _training_keys(chosen: DemoData) -> list[str]:
    """Return the keys that make two minutes on two cores worth while.

    A ResNet-18, because in so short a time it learns more than a ViT does; two views of most of the picture, so that few steps are
    enough; a learning rate and a teacher for hundreds of steps, not for a hundred thousand.
    """
    keys = [
        "recipe=dino",
        "backbone=resnet18",
        "local_views=0",
        "lr=2e-3",
        "momentum=0.98",
        "koleo_weight=0.3",
        "devices=1",  # a second process would begin with a demo of its own
        "workers=0",
        "onnx=false",  # the artifact that is exported and served has it
    ]
    keys += ["image_size=32" if chosen.small else "image_size=64", "batch_size=64"]
    if chosen.mirrored:
        return [*keys, "global_scale=0.6,1"]
    return [*keys, "global_scale=0.7,1", "horizontal_flip=0", "color_jitter=0", "solarize=0"]  # of a digit, form is all


def _index(bank: ImageList, out: Path, measured: Measured, say: Say) -> None:
    with open_local_sink(load_settings(artifact=out / "artifact", data=out / "data"), COLLECTION) as sink:
        indexed = index_folder(bank, sink, report=out / "refused.jsonl")
    say(f"indexed {indexed.created:,} training images, {indexed.refused} refused, {indexed.images_per_s:,.0f} images/s")
    measured.add("indexing", images_per_s=indexed.images_per_s)


def _classify(collection: Collection, held_out: ImageList, measured: Measured, say: Say) -> None:
    labelled = [image for image in held_out.images if image.label is not None]
    if len(held_out.classes) < 2:
        say("no class folders: nothing to classify")
        return
    start, right, refused = time.perf_counter(), 0, 0
    for image in labelled:
        try:
            right += collection.classify(image=image.path).label == image.label
        except RequestRefused:
            refused += 1
    rate = len(labelled) / (time.perf_counter() - start)
    accuracy = right / max(len(labelled) - refused, 1)
    measured.add("trained backbone, through the service", accuracy, rate)
    counted = f"{len(labelled) - refused:,} held-out images{f', {refused} refused' if refused else ''}"
    say(f"classified {counted}, over HTTP one by one: {accuracy:.1%} right, {rate:,.0f} images/s")


def _search(collection: Collection, bank: ImageList, held_out: ImageList, measured: Measured, say: Say) -> list[Row]:
    paths = {image.id: image.path for image in bank.images}
    rows: list[Row] = []
    start = time.perf_counter()
    for query in held_out.images[:: max(len(held_out) // SEARCHES, 1)]:
        try:
            hits = collection.query(image=query.path, limit=IMAGES_SHOWN)
        except RequestRefused:
            continue  # a damaged file, or a format that the service does not take from strangers
        neighbours = [
            Picture(paths[hit.id], f"{hit.score:.3f} {hit.label or hit.id}", _kind(query, hit.label)) for hit in hits
        ]
        rows.append(Row(query.id, [Picture(query.path, query.label or "query", "query"), *neighbours]))
    measured.add("searching", images_per_s=len(rows) / (time.perf_counter() - start))
    say(f"searched the neighbours of {len(rows)} held-out images")
    return rows[:SEARCHES]


def _kind(query: ListedImage, label: str | None) -> str:
    if query.label is None:
        return ""
    return "right" if label == query.label else "wrong"


def _cluster(collection: Collection, bank: ImageList, measured: Measured, say: Say) -> list[Row]:
    paths = {image.id: image.path for image in bank.images}
    start = time.perf_counter()
    clustering = collection.cluster(min(len(bank.classes) or CLUSTERS, len(bank)), seed=SEED)
    measured.add("clustering", images_per_s=len(bank) / (time.perf_counter() - start))
    clusters = sorted(collection.clusters(clustering), key=lambda cluster: -cluster.size)
    rows = []
    for cluster in clusters[:CLUSTERS]:
        most = Counter(cluster.labels).most_common(2)
        labels = ", ".join(f"{label} {count / cluster.size:.0%}" for label, count in most)
        title = f"cluster {cluster.cluster}: {cluster.size} images{f' ({labels})' if labels else ''}"
        rows.append(Row(title, [Picture(paths[point], point) for point in cluster.representatives[:IMAGES_SHOWN]]))
    say(f"clustered {len(bank):,} images into {len(clusters)} groups")
    return rows


def _compare(
    artifact: Artifact,
    result: TrainingResult,
    bank: ImageList,
    held_out: ImageList,
    measured: Measured,
    say: Say,
) -> None:
    """Measure the same vote on the same images with what training should beat: an untrained twin, and the pixels themselves."""
    if len(held_out.classes) < 2:
        return
    say("measuring the untrained backbone and the raw pixels ...")
    keys = ResolvedConfig.load(result.run / "config.toml")
    untrained = Start.of(keys).backbone(keys)
    start = time.perf_counter()
    accuracy = _accuracy(bank, held_out, lambda paths: embed_files(untrained, artifact.preprocess, paths))
    rate = (len(bank) + len(held_out)) / (time.perf_counter() - start)
    measured.add("the same backbone, untrained", accuracy, rate)
    start = time.perf_counter()
    accuracy = _accuracy(bank, held_out, lambda paths: _pixels(artifact.preprocess, paths))
    rate = (len(bank) + len(held_out)) / (time.perf_counter() - start)
    measured.add("raw pixels", accuracy, rate)


Embed = Callable[[Sequence[Path]], tuple[NDArray[np.float32], list[int]]]


def _accuracy(bank: ImageList, held_out: ImageList, embed: Embed) -> float:
    number = {label: index for index, label in enumerate(bank.classes)}

    def embedded(images: Sequence[ListedImage]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        labelled = [image for image in images if image.label in number]
        vectors, positions = embed([image.path for image in labelled])
        return vectors, np.array([number[labelled[position].label or ""] for position in positions])

    return knn_accuracy(*embedded(bank.images), *embedded(held_out.images))


def _pixels(preprocess: Preprocess, paths: Sequence[Path]) -> tuple[NDArray[np.float32], list[int]]:
    """The prepared pixels themselves as unit vectors [n, 3 * H * W]: what a search without a network would compare."""
    vectors, positions = [], []
    for position, path in enumerate(paths):
        try:
            flat = preprocess(read_file(path)).reshape(-1)
        except ImageRefused:
            continue  # the index step has reported it
        vectors.append(flat / max(float(np.linalg.norm(flat)), 1e-12))
        positions.append(position)
    return np.stack(vectors), positions
