"""The export of an artifact: from a run, a checkpoint, another artifact or known weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from backbone.architecture import Architecture
from backbone.artifact import Artifact, load_artifact
from backbone.artifact_writer import write_artifact
from backbone.durable import refuse_non_empty
from backbone.errors import PathMissing
from backbone.factory import build
from backbone.file_names import readable
from backbone.model import Backbone
from backbone.preprocess import Preprocess
from backbone.value_range import ALL_OF_16_BITS, ValueRange
from backbone.weights import load_strict, read_hub_weights
from training.checkpoints import Checkpoint, is_checkpoint, newest_valid, read_checkpoint
from training.errors import CheckpointInvalid

HUB_IMAGE_SIZE = 224  # pixels; the published models were trained at 518 at the end, and are evaluated at 224
HUB_LICENCE = "Apache-2.0"  # of the published DINOv2 weights
_TEACHER = "teacher.backbone."


def export(source: Path, out: Path, onnx: bool = True) -> Artifact:
    """Write an artifact of the backbone in `source` to the new directory `out`.

    Args:
        source: a run directory (its newest valid checkpoint), a checkpoint, an artifact directory, or a `.pth` file with the
            names of the DINOv2 hub.
        out: nothing or an empty directory.
        onnx: also write `model.onnx`.

    Raises:
        PathMissing, OutputNotEmpty, StorageFailed, ArtifactInvalid, WeightsInvalid: see `backbone.errors`.
        CheckpointInvalid: a damaged checkpoint, or a run that has none.
    """
    if not source.exists():
        raise PathMissing(f"{source} does not exist; name a run, a checkpoint, an artifact or a weights file.")
    refuse_non_empty(out)
    if source.is_dir():
        if (source / "manifest.json").exists():
            return _export_artifact(source, out, onnx=onnx)
        return export_checkpoint(newest_valid(source / "checkpoints"), out, onnx=onnx)
    if is_checkpoint(source):
        return export_checkpoint(read_checkpoint(source), out, onnx=onnx)
    return _export_hub(source, out, onnx=onnx)


def _summary(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "recipe": checkpoint.config["recipe"],
        "steps": checkpoint.step,
        "batch_size": checkpoint.config["batch_size"],
        "seed": checkpoint.config["seed"],
        "images": checkpoint.images,
        "data_fingerprint": checkpoint.data_fingerprint,
        **{name: checkpoint.scores.get(name) for name in ("knn", "two_view_recall")},
    }


def export_checkpoint(checkpoint: Checkpoint, out: Path, *, onnx: bool = True) -> Artifact:
    """Write the artifact of a checkpoint's teacher, with what the run was.

    Raises:
        OutputNotEmpty, StorageFailed: see `backbone.errors`.
        CheckpointInvalid: the weights are not those of the checkpoint's own architecture.
    """
    tensors = {
        name.removeprefix(_TEACHER): value for name, value in checkpoint.method.items() if name.startswith(_TEACHER)
    }
    network = build(Architecture.from_dict(checkpoint.architecture))
    problems = load_strict(network, tensors)
    if problems:
        raise CheckpointInvalid(f"the checkpoint does not fit its own architecture: {problems}; use an earlier one.")
    network.pooling = checkpoint.config["pooling"]
    given = checkpoint.config.get("value_range", ALL_OF_16_BITS)  # older ones know of none
    return write_artifact(
        out,
        network,
        Preprocess.for_image_size(checkpoint.config["image_size"], ValueRange.unless_all(given)),
        licence=checkpoint.config["licence"],
        lineage=checkpoint.lineage,
        training=_summary(checkpoint),
        onnx=onnx,
    )


def _export_artifact(source: Path, out: Path, *, onnx: bool) -> Artifact:
    artifact = load_artifact(source)
    manifest = artifact.manifest
    return write_artifact(
        out,
        artifact.model,
        artifact.preprocess,
        licence=manifest.licence,
        lineage=manifest.lineage,
        training=manifest.training,
        onnx=onnx,
    )


def _export_hub(source: Path, out: Path, *, onnx: bool) -> Artifact:
    architecture, tensors = read_hub_weights(source)
    return write_artifact(
        out,
        _loaded(architecture, tensors),
        Preprocess.for_image_size(HUB_IMAGE_SIZE),
        licence=HUB_LICENCE,
        lineage=f"{readable(source.name)}, DINOv2 hub layout",
        training={},
        onnx=onnx,
    )


def _loaded(architecture: Architecture, tensors: dict[str, Tensor]) -> Backbone:
    network = build(architecture)
    network.load_state_dict(tensors)  # strict; the reader has checked names, shapes and types
    return network
