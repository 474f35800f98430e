"""The initial weights of a run: random weights of a named network, or an artifact's network with its weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from backbone.architecture import Architecture, named
from backbone.artifact import Artifact, load_artifact
from backbone.errors import ArchitectureInvalid
from backbone.factory import build
from backbone.model import Backbone
from backbone.weights import load_strict
from training.checkpoints import Checkpoint
from training.config import ResolvedConfig, TrainingConfig, section
from training.errors import ConfigInvalid
from training.method import MethodConfig, SelfDistillation
from training.randomness import seed_of

NAMED_BY_DEFAULT = TrainingConfig().backbone
NO_LICENCE = TrainingConfig().licence


@dataclass(frozen=True)
class Start:
    """The network of a run, and where its weights come from."""

    architecture: Architecture
    artifact: Artifact | None  # None: random weights
    lineage: str = "random initialisation"  # for the manifest

    @classmethod
    def of(cls, config: TrainingConfig) -> Self:
        """Read the keys `init`, `backbone`, `depth` and `image_size`.

        Raises:
            ArchitectureInvalid, ArtifactInvalid, PathMissing: see `backbone.errors`.
            ConfigInvalid: keys that contradict each other.
        """
        if config.init is None:
            return cls(_named(config), None)
        artifact = load_artifact(Path(config.init))
        for key, default in (("backbone", NAMED_BY_DEFAULT), ("depth", None)):
            given = getattr(config, key)
            if given != default and given != str(artifact.architecture):
                raise ConfigInvalid(
                    f"{key} is {given}, but init brings a network of its own, {artifact.architecture}; leave {key} out."
                )
        _check_image_size(artifact.architecture, config.image_size)
        lineage = f"continued from {artifact.fingerprint[:12]} ({artifact.manifest.lineage})"
        return cls(artifact.architecture, artifact, lineage)

    @classmethod
    def again(cls, checkpoint: Checkpoint) -> Self:
        """Return the start of the run that wrote a checkpoint; its weights come from there."""
        return cls(Architecture.from_dict(checkpoint.architecture), None, checkpoint.lineage)

    def licence(self, config: TrainingConfig) -> str:
        """Return the licence of what comes out: the given one, or else that of the initial weights."""
        inherited = self.artifact is not None and config.licence == NO_LICENCE
        return self.artifact.manifest.licence if inherited and self.artifact else config.licence

    def method(self, config: ResolvedConfig) -> SelfDistillation:
        """Build student and teacher with new heads; the keys of the run and their seed decide every weight."""
        backbone = self.backbone(config)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of("heads", config.seed))
            return SelfDistillation(backbone, section(config, MethodConfig))

    def backbone(self, config: ResolvedConfig) -> Backbone:
        """Build the backbone that a run with these keys starts from; equal keys give equal weights."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of("weights", config.seed))
            backbone = build(self.architecture, config.drop_path, config.layer_scale)
        if self.artifact is not None:
            problems = load_strict(backbone, copy.deepcopy(self.artifact.model.state_dict()))
            assert not problems, problems  # the artifact has shown that its weights fit its architecture
        backbone.pooling = config.pooling
        return backbone


def _named(config: TrainingConfig) -> Architecture:
    architecture = named(config.backbone, config.image_size)
    if config.depth is None:
        return architecture
    if architecture.name != "vit":
        raise ConfigInvalid(f"depth is a key of ViTs; {config.backbone} has its depth in its name. Leave it out.")
    return Architecture(architecture.name, {**architecture.params, "depth": config.depth})


def _check_image_size(architecture: Architecture, image_size: int) -> None:
    """A ViT takes any whole number of its patches: its position table is resized. A CNN takes any size but the smallest."""
    smallest = architecture.smallest_image
    if image_size < smallest or (architecture.name == "vit" and image_size % smallest):
        near = max(round(image_size / smallest), 1) * smallest
        raise ArchitectureInvalid(
            f"{architecture} does not take images of {image_size} pixels; take image_size={near}."
        )
