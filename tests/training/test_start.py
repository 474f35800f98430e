"""What a run starts from."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from backbone import Preprocess, load_artifact
from backbone.artifact import Artifact
from backbone.artifact_writer import write_artifact
from backbone.errors import ArchitectureInvalid, ArtifactInvalid, PathMissing
from backbone.model import Backbone
from training.checkpoints import newest_valid
from training.config import TrainingConfig
from training.errors import ConfigInvalid
from training.progress import Reporter
from training.recipes import resolve
from training.resume import Resume
from training.run import train
from training.start import Start

Tiny = Callable[..., TrainingConfig]


@pytest.fixture
def reporter() -> Reporter:
    return Reporter(Console(file=io.StringIO()))


@pytest.fixture
def artifact(tiny_vit: Backbone, tmp_path: Path) -> Artifact:
    for parameter in tiny_vit.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    options = {"licence": "CC0-1.0", "lineage": "drawn for a test", "training": {}}
    return write_artifact(tmp_path / "start", tiny_vit, Preprocess.for_image_size(16), onnx=False, **options)


def keys_from(config: Tiny, artifact: Artifact, **keys: object) -> TrainingConfig:
    others = {key: value for key, value in config().to_dict().items() if key not in ("backbone", "depth")}
    return TrainingConfig.from_values({**others, "init": str(artifact.path), "image_size": 16, "local_size": 8, **keys})


def test_student_and_teacher_start_as_the_artifact_bit_by_bit(artifact: Artifact, tiny_config: Tiny) -> None:
    config = keys_from(tiny_config, artifact)
    start = Start.of(config)
    method = start.method(resolve(config, 100, start.architecture).config)
    wanted = artifact.model.state_dict()
    for network in (method.student.backbone, method.teacher.backbone):
        assert network.state_dict().keys() == wanted.keys()
        assert all(torch.equal(value, wanted[name]) for name, value in network.state_dict().items())
    assert all(p.requires_grad for name, p in method.student.backbone.named_parameters() if name != "mask_token")


def test_a_continued_run_says_where_it_comes_from_and_keeps_the_licence(
    digits: Path, tmp_path: Path, artifact: Artifact, tiny_config: Tiny, reporter: Reporter
) -> None:
    result = train(digits, tmp_path / "run", keys_from(tiny_config, artifact, max_steps=4), reporter)
    manifest = load_artifact(result.artifact).manifest
    assert manifest.licence == "CC0-1.0"
    assert manifest.lineage == f"continued from {artifact.fingerprint[:12]} (drawn for a test)"
    assert manifest.architecture == artifact.manifest.architecture
    assert manifest.fingerprint != artifact.fingerprint


def test_a_given_licence_goes_before_that_of_the_initial_weights(artifact: Artifact, tiny_config: Tiny) -> None:
    config = keys_from(tiny_config, artifact, licence="MIT")
    assert Start.of(config).licence(config) == "MIT"


def test_the_backbone_of_an_artifact_rests_while_the_new_heads_learn(
    digits: Path, tmp_path: Path, artifact: Artifact, tiny_config: Tiny, reporter: Reporter
) -> None:
    """An epoch is 16 steps and a tenth of the run 4: the first 4 steps leave the backbone alone, the fifth does not."""
    config = keys_from(tiny_config, artifact, max_steps=40, checkpoint_every_s=0, keep_checkpoints=50, log_every=40)
    result = train(digits, tmp_path / "run", config, reporter)
    wanted = artifact.model.state_dict()
    folder = result.run / "checkpoints"

    def backbone_at(step: int) -> bool:
        for later in sorted(folder.glob("step-*.ckpt"))[step:]:
            later.unlink()
        state = newest_valid(folder).method
        assert not torch.equal(state["student.head.mlp.0.weight"], state["teacher.head.mlp.0.weight"])
        return all(torch.equal(state[f"student.backbone.{name}"], value) for name, value in wanted.items())

    assert not backbone_at(5)
    assert backbone_at(4)


def test_a_resumed_run_does_not_need_the_artifact_any_more(
    digits: Path, tmp_path: Path, artifact: Artifact, tiny_config: Tiny, reporter: Reporter
) -> None:
    config = keys_from(tiny_config, artifact, max_steps=4)
    result = train(digits, tmp_path / "run", config, reporter)
    fingerprint = load_artifact(result.artifact).fingerprint
    for path in (*artifact.path.iterdir(), *result.artifact.iterdir()):
        path.unlink()
    result.artifact.rmdir()
    again = train(digits, tmp_path / "run", TrainingConfig(), reporter, Resume())
    assert load_artifact(again.artifact).fingerprint == fingerprint
    assert (again.steps, again.knn) == (result.steps, result.knn)


@pytest.mark.parametrize("keys", [{"backbone": "resnet18"}, {"depth": 1}])
def test_another_network_than_the_artifacts_is_refused(
    artifact: Artifact, tiny_config: Tiny, keys: dict[str, object]
) -> None:
    with pytest.raises(ConfigInvalid, match="init brings a network of its own"):
        Start.of(keys_from(tiny_config, artifact, **keys))


@pytest.mark.parametrize(("size", "near"), [(18, 16), (3, 4)])
def test_an_image_size_that_the_artifact_cannot_take_is_refused(
    artifact: Artifact, tiny_config: Tiny, size: int, near: int
) -> None:
    with pytest.raises(ArchitectureInvalid, match=f"take image_size={near}"):
        Start.of(keys_from(tiny_config, artifact, image_size=size))


def test_an_artifact_that_is_missing_or_damaged_is_refused(
    artifact: Artifact, tiny_config: Tiny, tmp_path: Path
) -> None:
    with pytest.raises(PathMissing):
        Start.of(TrainingConfig(init=str(tmp_path / "absent")))
    weights = artifact.path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactInvalid):
        Start.of(keys_from(tiny_config, artifact))
