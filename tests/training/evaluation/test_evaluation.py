from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from backbone import knn_accuracy, list_images
from backbone.artifact import Artifact
from backbone.artifact_writer import write_artifact
from backbone.embedding import BATCH, embed_and_hash, embed_files
from backbone.errors import ArtifactInvalid, DataInvalid, PathMissing
from backbone.model import Backbone
from backbone.preprocess import Preprocess
from service.library.library import Library
from service.points import NewPoint, hash_vector
from training.errors import DataTooSmall
from training.evaluation.clusters import score_clustering, spherical_kmeans
from training.evaluation.evaluation import evaluate, score_neighbours
from training.evaluation.linear_probe import score_linear
from training.evaluation.retrieval import score_retrieval

PREPROCESS = Preprocess.for_image_size(16)


@pytest.fixture
def artifact(tiny_vit: Backbone, tmp_path: Path) -> Artifact:
    options = {"licence": "Apache-2.0", "lineage": "random weights", "training": {}}
    return write_artifact(tmp_path / "artifact", tiny_vit, PREPROCESS, onnx=False, **options)


@pytest.fixture
def halves(digits: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Train and validation folders of 200 and 100 digits."""
    for number, image in enumerate(list_images(digits).images):
        target = tmp_path / ("val" if number % 3 == 0 else "train") / image.id
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image.path, target)
    return tmp_path / "train", tmp_path / "val"


def pixels(count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Unit vectors of handwritten digits and their classes."""
    data = load_digits()
    x = data.data[:count].astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True), data.target[:count].astype(np.int64)


def test_files_become_the_vectors_that_they_become_one_by_one_in_the_order_of_the_list(
    digits: Path, tiny_vit: Backbone, tmp_path: Path
) -> None:
    paths = [image.path for image in list_images(digits).images[: 3 * BATCH + 5]]
    (tmp_path / "bad.png").write_bytes(b"no image")
    paths[BATCH + 1], paths[BATCH + 2] = tmp_path / "bad.png", tmp_path / "missing.png"
    tiny_vit.train()
    done = embed_and_hash(tiny_vit, PREPROCESS, paths)
    assert tiny_vit.training
    assert done.unread == 1
    assert done.positions.tolist() == [n for n in range(len(paths)) if n not in (BATCH + 1, BATCH + 2)]
    tiny_vit.eval()
    with torch.no_grad():
        alone = [tiny_vit.embed(torch.from_numpy(PREPROCESS(paths[n].read_bytes()))[None]) for n in done.positions]
    np.testing.assert_allclose(done.vectors, torch.cat(alone), atol=1e-5)
    again, positions = embed_files(tiny_vit, PREPROCESS, paths)
    np.testing.assert_array_equal(again, done.vectors)
    assert positions == done.positions.tolist()


def test_a_network_that_fails_leaves_its_mode_and_no_threads(digits: Path, tiny_vit: Backbone) -> None:
    tiny_vit.train()
    paths = [image.path for image in list_images(digits).images]
    with pytest.raises(ValueError, match="patches"):
        embed_files(tiny_vit, Preprocess.for_image_size(15), paths)  # not a multiple of the patch
    assert tiny_vit.training
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_the_accuracy_is_that_of_the_shared_vote_for_every_k() -> None:
    x, labels = pixels(300)
    found = score_neighbours(x[:200], labels[:200], x[200:], labels[200:])
    expected = {str(k): knn_accuracy(x[:200], labels[:200], x[200:], labels[200:], k) for k in (10, 20, 100, 200)}
    assert found == expected
    assert found["10"] > 0.85


def test_the_accuracy_is_that_of_the_service_s_classify(tmp_path: Path) -> None:
    x, labels = pixels(300)
    found = score_neighbours(x[:200], labels[:200], x[200:], labels[200:])
    with Library.open(tmp_path / "data", threads=1) as library:
        collection, _ = library.create("c", "f" * 64, x.shape[1], "none")
        collection.put([NewPoint(str(n), hash_vector(x[n]), x[n], label=str(labels[n])) for n in range(200)])
        for k in (10, 20, 100, 200):
            answers = [answer.label for answer in collection.classify(x[200:], k=k)]
            assert found[str(k)] == np.mean(np.array(answers) == labels[200:].astype(str))


def test_copies_of_an_image_vote_in_the_order_of_rows_whatever_k_is() -> None:
    bank = np.tile(np.eye(1, 4, dtype=np.float32), (300, 1))
    labels = np.array([1] * 10 + [0] * 290)
    found = score_neighbours(bank, labels, bank[:5], np.ones(5, np.int64))
    assert found == {"10": 1.0, "20": 0.0, "100": 0.0, "200": 0.0}  # at 20 both have 10 votes: the first class wins


def test_groups_that_lie_apart_are_found_whatever_their_numbers() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 25)
    x = np.eye(8, 16)[labels] + 0.05 * generator.normal(size=(200, 16))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    scores = score_clustering(x, (labels * 3 + 1) % 8)
    assert (scores.nmi, scores.ari, scores.purity) == pytest.approx((1, 1, 1))
    np.testing.assert_array_equal(spherical_kmeans(x, 8, seed=1), spherical_kmeans(x, 8, seed=1))


def test_every_vector_is_in_the_cluster_whose_mean_direction_is_nearest() -> None:
    x, _ = pixels(300)
    clusters = spherical_kmeans(x, 10, seed=0)
    centres = np.stack([x[clusters == c].sum(axis=0) for c in range(10)])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    similarity = x @ centres.T
    np.testing.assert_allclose(similarity[np.arange(300), clusters], similarity.max(axis=1), atol=1e-6)


def test_the_purity_is_the_share_of_the_most_frequent_label() -> None:
    x = np.repeat(np.eye(2, dtype=np.float32), [6, 4], axis=0)
    scores = score_clustering(x, np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 0]))
    assert scores.purity == pytest.approx((4 + 3) / 10)


def test_vectors_without_any_structure_score_near_chance() -> None:
    x = np.full((40, 4), 0.5, dtype=np.float32)
    scores = score_clustering(x, np.arange(40) % 2)
    assert scores.ari == pytest.approx(0, abs=1e-9)
    assert scores.purity == pytest.approx(0.5)


def test_an_evaluation_says_what_it_is_of_and_scores_the_vectors_of_the_files(
    artifact: Artifact, halves: tuple[Path, Path]
) -> None:
    result = evaluate(artifact.path, *halves)
    assert result.fingerprint == artifact.fingerprint
    assert (result.counts.train, result.counts.validation, result.counts.classes) == (200, 100, 10)
    assert result.notes == ()
    sides = []
    for folder in halves:
        images = list_images(folder)
        vectors, _ = embed_files(artifact.model, artifact.preprocess, [image.path for image in images.images])
        sides += [vectors, np.array([images.classes.index(str(image.label)) for image in images.images])]
    assert result.knn == score_neighbours(*sides)
    assert result.clustering == score_clustering(sides[2], sides[3])
    assert result.retrieval == score_retrieval(*sides)
    assert result.linear == score_linear(*sides)
    assert result.linear.accuracy > 0.5


def test_a_second_evaluation_embeds_nothing_and_finds_the_same(
    artifact: Artifact, halves: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    first = evaluate(artifact.path, *halves, cache=tmp_path / "cache", say=said.append)
    assert len(said) == 2
    monkeypatch.setattr("training.evaluation.evaluation.embed_and_hash", None)
    monkeypatch.setattr("training.evaluation.evaluation._network", None)
    second = evaluate(artifact.path, *halves, cache=tmp_path / "cache", say=said.append)
    assert len(said) == 2
    assert (second.knn, second.linear, second.retrieval, second.clustering, second.counts) == (
        first.knn,
        first.linear,
        first.retrieval,
        first.clustering,
        first.counts,
    )


def test_what_a_reader_has_to_know_is_said(artifact: Artifact, halves: tuple[Path, Path]) -> None:
    train, val = halves
    shutil.rmtree(train / "7")
    shown = sorted(train.glob("3/*"))[:2]
    for path in shown:
        shutil.copy(path, val / "4" / f"copy-{path.name}")  # under another class and name: the bytes count
    (val / "5" / "bad.png").write_bytes(b"no image")
    (val / "beside.png").write_bytes(shown[0].read_bytes())
    (train / "nothing").mkdir()
    unknown = len(list((val / "7").iterdir()))

    result = evaluate(artifact.path, train, val)
    counts = result.counts
    assert (counts.leaked, counts.unknown, counts.validation_left_out, counts.train_left_out) == (2, unknown, 1, 0)
    assert counts.validation == 102
    assert counts.classes == 9
    notes = "\n".join(result.notes)
    assert "in no class folder: 1 of 104 images" in notes
    assert "without images: nothing." in notes
    assert "5/bad.png" in notes
    assert "2 of 102 validation images are also in train" in notes
    assert f"{unknown} of 102 validation images count as wrong, because train lacks their classes: 7." in notes
    assert f"k of 200: all {counts.train} training images vote" in notes
    assert result.knn["10"] <= 1 - unknown / 102
    assert result.retrieval.recall["10"] <= 1 - unknown / 102
    assert result.linear.accuracy <= 1 - unknown / 102


def test_the_same_folder_on_both_sides_is_named_for_what_it_is(artifact: Artifact, halves: tuple[Path, Path]) -> None:
    result = evaluate(artifact.path, halves[0], halves[0])
    assert result.counts.leaked == 200
    assert "200 of 200 validation images are also in train" in result.notes[0]


def keep_one_class(folder: Path) -> None:
    for path in sorted(folder.iterdir())[1:]:
        shutil.rmtree(path)


def spoil_all_but_one_class(folder: Path) -> None:
    for path in sorted(folder.glob("*/*")):
        if path.parent.name != "0":
            path.write_bytes(b"no image")


def spoil_all(folder: Path) -> None:
    for path in sorted(folder.glob("*/*")):
        path.write_bytes(b"no image")


def flatten(folder: Path) -> None:
    for path in sorted(folder.glob("*/*")):
        path.rename(folder / path.name)


def empty(folder: Path) -> None:
    for path in sorted(folder.glob("*/*")):
        path.unlink()


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (shutil.rmtree, PathMissing, "does not exist"),
        (empty, DataInvalid, "holds no images"),
        (flatten, DataTooSmall, "no class folders"),
        (keep_one_class, DataTooSmall, "only images of the class 0"),
        (spoil_all_but_one_class, DataTooSmall, "only images of the class 0"),
        (spoil_all, DataTooSmall, "no images that can be read"),
    ],
)
def test_images_that_cannot_be_scored_are_an_error_that_names_the_folder(
    artifact: Artifact,
    halves: tuple[Path, Path],
    side: int,
    change: Callable[[Path], None],
    error: type[Exception],
    message: str,
) -> None:
    change(halves[side])
    with pytest.raises(error, match=message) as raised:
        evaluate(artifact.path, *halves)
    assert str(halves[side]) in str(raised.value)


def test_a_damaged_artifact_is_refused_also_where_its_vectors_are_kept(
    artifact: Artifact, halves: tuple[Path, Path], tmp_path: Path
) -> None:
    evaluate(artifact.path, *halves, cache=tmp_path / "cache")
    weights = artifact.path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ArtifactInvalid):
        evaluate(artifact.path, *halves, cache=tmp_path / "cache")
