from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from backbone import Artifact, Preprocess, load_artifact
from backbone.architecture import named
from backbone.errors import OutputNotEmpty, PathMissing, WeightsInvalid
from backbone.factory import build
from training.checkpoints import Checkpoint, write_checkpoint
from training.errors import CheckpointInvalid
from training.export import export
from training.method import SelfDistillation


@pytest.fixture
def checkpoint(make_method: Callable[..., SelfDistillation]) -> Checkpoint:
    method = make_method()
    return Checkpoint(
        step=3,
        elapsed_s=1.0,
        skipped=0,
        processes=1,
        config={
            "recipe": "dinov2",
            "batch_size": 8,
            "seed": 0,
            "image_size": 16,
            "pooling": "cls+mean",
            "licence": "CC0-1.0",
        },
        architecture=method.teacher.backbone.architecture.to_dict(),
        method=method.state_dict(),
        optimizer={},
        scaler={},
        watch={},
        lineage="random initialisation",
        images=20,
        data_fingerprint="ab",
        scores={"knn": 0.5},
    )


def same_vectors(a: Artifact, b: Artifact) -> bool:
    x = torch.randn(2, 3, *[a.preprocess.crop] * 2)
    with torch.no_grad():
        return bool(torch.equal(a.embed(x), b.embed(x)))


def test_a_run_a_checkpoint_and_its_artifact_export_to_the_same_fingerprint(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    path = write_checkpoint(tmp_path / "run" / "checkpoints", checkpoint, keep=3)
    by_run = export(tmp_path / "run", tmp_path / "a", onnx=False)
    by_file = export(path, tmp_path / "b", onnx=False)
    again = export(tmp_path / "a", tmp_path / "c", onnx=False)
    assert by_run.fingerprint == by_file.fingerprint == again.fingerprint
    assert same_vectors(by_run, again)
    assert by_run.manifest.licence == again.manifest.licence == "CC0-1.0"
    assert by_run.manifest.pooling == "cls+mean"
    assert by_run.manifest.training == again.manifest.training
    assert by_run.onnx_path is None
    assert by_run.preprocess == Preprocess.for_image_size(16)


def test_the_exported_network_is_the_teacher(tmp_path: Path, checkpoint: Checkpoint) -> None:
    name = "norm.bias"
    checkpoint.method[f"teacher.backbone.{name}"] = torch.full_like(checkpoint.method[f"teacher.backbone.{name}"], 0.25)
    artifact = export(write_checkpoint(tmp_path, checkpoint, keep=1), tmp_path / "a", onnx=False)
    assert torch.all(artifact.model.state_dict()[name] == 0.25)


def test_hub_weights_export_with_their_licence(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build(named("vit_tiny_patch14", 28))
    path = tmp_path / "dinov2_tiny.pth"
    torch.save(network.state_dict(), path)
    artifact = export(path, tmp_path / "a", onnx=False)
    assert artifact.manifest.licence == "Apache-2.0"
    assert "dinov2_tiny.pth" in artifact.manifest.lineage
    assert artifact.preprocess == Preprocess.for_image_size(224)
    assert artifact.manifest.pos_embed_resize == "hub_offset"


@pytest.mark.parametrize("content", ["nothing", "a state dict of another program"])
def test_a_foreign_file_is_refused_and_nothing_is_written(tmp_path: Path, content: str) -> None:
    path = tmp_path / "foreign.ckpt"
    path.touch()
    if content != "nothing":
        torch.save({"state_dict": {"encoder.weight": torch.zeros(2)}}, path)
    with pytest.raises(WeightsInvalid):
        export(path, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    del checkpoint.method["teacher.backbone.norm.bias"]
    with pytest.raises(CheckpointInvalid, match=r"norm\.bias is missing"):
        export(write_checkpoint(tmp_path, checkpoint, keep=1), tmp_path / "a")


def test_a_run_that_saved_nothing_yet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(CheckpointInvalid, match="holds no valid checkpoint"):
        export(tmp_path / "run", tmp_path / "a")


def test_a_source_that_is_not_there_and_a_target_that_is_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PathMissing):
        export(tmp_path / "absent", tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(OutputNotEmpty):
        export(tmp_path, tmp_path / "full")


def test_the_model_is_served_from_the_exported_files_as_it_was_trained(tmp_path: Path, checkpoint: Checkpoint) -> None:
    out = export(write_checkpoint(tmp_path, checkpoint, keep=1), tmp_path / "a").path
    artifact = load_artifact(out)
    assert artifact.onnx_path is not None
    with torch.no_grad():
        vectors = artifact.embed(torch.zeros(1, 3, 16, 16)).numpy()
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
