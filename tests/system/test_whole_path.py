"""The promise of the project, end to end: train, export, index, serve, kill, and find everything again."""

from __future__ import annotations

import random
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pictures import encoded, picture
from processes import service_process

from backbone import Artifact, DecodeLimits, ListedImage, list_images
from backbone.durable import read_file
from backbone.embedding import embed_files
from dinodex import Client
from dinodex.demo_service import running_service
from dinodex.errors import ClientError
from service.ingestion.job import index_folder
from service.ingestion.local_sink import open_local_sink
from service.settings import load_settings
from training.config import TrainingConfig
from training.export import export
from training.probe import Probe, Split
from training.run import train

# The arithmetic of training and evaluation, whatever would be faster here.
AS_TRAINED = {"runtime": "torch", "precision": "fp32", "threads": "1"}
SERVED = {"allow_anonymous": 1, "runtime": "torch", "threads": 1}
TINY = ["backbone=vit_tiny_patch8", "image_size=32", "depth=2", "max_steps=6", "batch_size=16", "workers=0", "seed=3"]


@pytest.fixture(scope="module")
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Train for a few steps and export."""
    root = tmp_path_factory.mktemp("trained")
    result = train(digits, root / "run", TrainingConfig.load(overrides=TINY))
    return export(result.run, root / "artifact")


@pytest.fixture(scope="module")
def indexed(trained: Artifact, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Index the digits with it, into a data directory."""
    data = tmp_path_factory.mktemp("indexed") / "data"
    with open_local_sink(load_settings(artifact=trained.path, data=data, **AS_TRAINED), "digits") as sink:
        assert index_folder(list_images(digits), sink).created == 300
    return data


@dataclass
class Written:
    """What a writer knows: every id that it sent, and every id that was acknowledged."""

    sent: dict[str, str] = field(default_factory=dict)  # id: label
    acknowledged: set[str] = field(default_factory=set)


def write_until_killed(url: str, written: Written, round_number: int, worker: int) -> None:
    """Put images, ready vectors and batches until the service is gone; note what was answered."""
    generator = random.Random(round_number * 10 + worker)
    with Client(url) as client:
        points = client.collection("digits")
        for number in range(100_000):
            names = [f"new/{round_number}-{worker}-{number}-{i}.png" for i in range(generator.choice([1, 1, 4]))]
            labels = {name: f"label-{generator.randrange(5)}" for name in names}
            written.sent.update(labels)
            images = {name: encoded(picture(16, 16, seed=generator.randrange(2**31))) for name in names}
            try:
                if len(names) == 1:
                    points.put(names[0], image=images[names[0]], label=labels[names[0]])
                else:
                    points.put_many([{"id": n, "image": images[n], "label": labels[n]} for n in names])
            except ClientError:
                return
            written.acknowledged.update(names)


def test_a_service_killed_while_points_are_put_has_every_acknowledged_point_and_none_half_written(
    trained: Artifact, indexed: Path, tmp_path: Path
) -> None:
    written, log = Written(), tmp_path / "log"
    generator = random.Random(20_261_122)
    for round_number in range(3):
        with service_process(trained.path, indexed, log, stop="kill", **SERVED) as service:
            with Client(service.url) as client:
                client.wait_until_ready()
            writers = [
                threading.Thread(target=write_until_killed, args=(service.url, written, round_number, worker))
                for worker in range(3)
            ]
            for writer in writers:
                writer.start()
            goal = len(written.acknowledged) + generator.randrange(10, 60)
            deadline = time.monotonic() + 60
            while len(written.acknowledged) < goal and time.monotonic() < deadline:
                time.sleep(0.005)
            service.kill()
            for writer in writers:
                writer.join()
    assert len(written.acknowledged) >= 30
    with service_process(trained.path, indexed, log, stop="kill", **SERVED) as service, Client(service.url) as client:
        client.wait_until_ready()
        digits = client.collection("digits")
        found = {point.id: point for point in digits.scroll(with_vector=True)}
        new = {point_id for point_id in found if point_id.startswith("new/")}
        assert written.acknowledged <= new, "an acknowledged point is lost"
        assert new <= set(written.sent), "a point is there that nobody sent"
        assert len(found) - len(new) == 300
        for point_id in new:
            point = found[point_id]
            assert point.label == written.sent[point_id]
            assert point.vector is not None
            assert np.linalg.norm(point.vector) == pytest.approx(1.0, abs=1e-5)
            assert digits.thumbnail(point_id)[:3] == b"\xff\xd8\xff"
        for point_id in sorted(written.acknowledged)[::7]:
            vector = found[point_id].vector
            assert vector is not None
            hits = digits.query(vector=vector, limit=5)
            assert any(hit.id == point_id or hit.score > 0.99999 for hit in hits), "search misses it"


def test_evaluation_online_score_job_and_service_give_the_same_vector_for_the_same_file(
    trained: Artifact, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = tmp_path / "photo.jpg"  # large enough for scaled decoding, turned, and grey: every branch of preprocess
    photo.write_bytes(encoded(picture(600, 450).convert("L"), "JPEG", exif=b"Exif\x00\x00" + _turned()))
    paths = [image.path for image in list_images(digits).images[::40]] + [photo]
    data = tmp_path / "data"
    folder = tmp_path / "files"
    folder.mkdir()
    for number, path in enumerate(paths):
        (folder / f"{number}{path.suffix}").write_bytes(path.read_bytes())

    evaluation, _ = embed_files(trained.model, trained.preprocess, paths)
    scored: list[NDArray[np.float32]] = []

    def record(bank: NDArray[np.float32], _labels: object, queries: NDArray[np.float32], _more: object) -> float:
        scored.extend([bank, queries])
        return 0.0

    monkeypatch.setattr("training.probe.knn_accuracy", record)
    labelled = [ListedImage(str(number), path, f"l{number % 2}") for number, path in enumerate(paths)]
    Probe(Split([], labelled, labelled), trained.preprocess, DecodeLimits()).score(trained.model)
    one_by_one = np.concatenate(
        [trained.embed(torch.from_numpy(trained.preprocess(read_file(path)))[None]).numpy() for path in paths]
    )
    with open_local_sink(load_settings(artifact=trained.path, data=data, **AS_TRAINED), "c") as sink:
        assert index_folder(list_images(folder), sink).created == len(paths)
    with running_service(trained.path, data, **AS_TRAINED) as client:
        job = [client.collection("c").get(f"{n}{p.suffix}", with_vector=True).vector for n, p in enumerate(paths)]
        service = client.embed(paths)
        client.collection("c").put("raw", image=photo)
        raw = client.collection("c").get("raw", with_vector=True).vector
    for vectors in (*scored, one_by_one, np.array(job, dtype=np.float32), service):
        assert np.abs(vectors - evaluation).max() <= 1e-6
    assert len(scored) == 2
    assert np.abs(np.array(raw, dtype=np.float32) - evaluation[-1]).max() <= 1e-6


def test_the_service_s_vote_is_the_evaluation_s(trained: Artifact, indexed: Path, digits: Path) -> None:
    from backbone import nearest, vote

    images = list_images(digits)
    number = {label: index for index, label in enumerate(images.classes)}
    bank, _ = embed_files(trained.model, trained.preprocess, [image.path for image in images.images])
    labels = np.array([number[image.label or ""] for image in images.images])
    queries = images.images[5::50]
    scores, rows = nearest(bank[5::50], bank, 20)
    expected = vote(scores, labels[rows], len(number))
    with running_service(trained.path, indexed, **AS_TRAINED) as client:
        collection = client.collection("digits")
        collection.delete([point.id for point in collection.scroll() if point.id.startswith("new/")])
        for row, query in enumerate(queries):
            found = collection.classify(image=query.path, k=20)
            best = images.classes[int(expected[row].argmax())]
            assert found.label == best
            assert found.probability == pytest.approx(expected[row].max(), abs=1e-3)


def test_sigterm_ends_the_service_with_zero(trained: Artifact, tmp_path: Path) -> None:
    with service_process(trained.path, tmp_path / "data", tmp_path / "log", **SERVED) as service:
        with Client(service.url) as client:
            client.wait_until_ready()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0


def _turned() -> bytes:
    """A TIFF block with one tag: orientation 6."""
    return b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00"
