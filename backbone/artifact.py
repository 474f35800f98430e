"""The artifact and its loading: a directory with a trained backbone and all that is needed to embed with it. Loading is verifying.

`manifest.json` (what it is), `weights.safetensors` (float32, hub names), `golden.npz` (images and their vectors), `MODEL_CARD.md`, and
`model.onnx` for runtimes other than torch. Nothing is ever unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from backbone import golden
from backbone.architecture import Architecture
from backbone.durable import hash_file, read_file
from backbone.errors import ArchitectureInvalid, ArtifactInvalid, PathMissing
from backbone.factory import build
from backbone.manifest import Manifest, fingerprint, weights_digest
from backbone.preprocess import Preprocess
from backbone.value_range import ValueRange

if TYPE_CHECKING:
    from torch import Tensor

    from backbone.model import Backbone, Tokens

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
GOLDEN = "golden.npz"
CARD = "MODEL_CARD.md"
ONNX = "model.onnx"

MINIMUM_COSINE = {
    "float32": 0.9999,
    "bfloat16": 0.999,
}  # to the golden vectors, by the precision that a runtime computes in


def load_artifact(path: Path | str) -> Artifact:
    """Open and verify the artifact in directory `path`; no network is built yet.

    Raises:
        PathMissing: there is no such directory.
        ArtifactInvalid: a file is missing, changed or not finite, or the format is unknown.
    """
    path = Path(path)
    if not path.exists():
        raise PathMissing(f"{path} does not exist; name the directory of an artifact (train and export write one).")
    if not (path / MANIFEST).is_file():
        raise ArtifactInvalid(f"{path} is not an artifact: it has no {MANIFEST}; name the directory that export wrote.")
    manifest = Manifest.from_bytes(read_file(path / MANIFEST))
    _check_files(path, manifest)
    _check_weights(path, manifest)
    return Artifact(path, manifest)


@dataclass(frozen=True)
class Artifact:
    """A verified artifact."""

    path: Path
    manifest: Manifest
    value_range: ValueRange | None = None  # given in place of the one that it was written with

    @property
    def fingerprint(self) -> str:
        """sha256 over weights, architecture, pooling and preprocess; equal fingerprints give comparable vectors."""
        return self.manifest.fingerprint if self.value_range is None else self.fingerprint_for(self.manifest.pooling)

    def fingerprint_for(self, output: str) -> str:
        """Return the fingerprint of vectors pooled otherwise than the manifest says (a pooling, or `patches`)."""
        return fingerprint(self.manifest.weights_sha256, self.architecture, output, self.preprocess)

    @cached_property
    def architecture(self) -> Architecture:
        """The architecture of the network."""
        return Architecture.from_dict(self.manifest.architecture)

    @cached_property
    def preprocess(self) -> Preprocess:
        """The way from image bytes to [3, H, W] float32; call it."""
        return self._written if self.value_range is None else replace(self._written, value_range=self.value_range)

    @cached_property
    def model(self) -> Backbone:
        """The network in torch: float32, on the CPU, in evaluation mode, without gradients.

        Raises:
            ArtifactInvalid: the weights are not those of the architecture, name by name.
            NotInstalled: torch is not there.
        """
        return _build_model(self)

    def tokens(self, x: Tensor) -> Tokens:
        """Compute `self.model.tokens(x)`: [B, 3, H, W] -> global token [B, D] and patch tokens [B, N, D]."""
        return self.model.tokens(x)

    def embed(self, x: Tensor) -> Tensor:
        """Compute `self.model.embed(x)`: [B, 3, H, W] -> [B, dimension], rows of length one."""
        return self.model.embed(x)

    @property
    def onnx_path(self) -> Path | None:
        """Where `model.onnx` is, or None if the artifact was written without it."""
        return self.path / ONNX if ONNX in self.manifest.files else None

    def self_test(self, run: golden.Run, minimum_cosine: float = MINIMUM_COSINE["float32"]) -> float:
        """Run the golden images through decoding, preprocess and `run`, and return the worst cosine to the remembered vectors.

        Args:
            run: a runtime: pixels [B, 3, H, W] -> (global_token [B, D], patch_tokens [B, N, D]).
            minimum_cosine: what is demanded; see MINIMUM_COSINE.

        Raises:
            SelfTestFailed: the worst cosine is lower.
        """
        return golden.self_test(read_file(self.path / GOLDEN), self._written, run, minimum_cosine)

    @cached_property
    def _written(self) -> Preprocess:
        return Preprocess.from_dict(self.manifest.preprocess)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Read the weights: name -> array."""
        return safetensors.numpy.load(read_file(self.path / WEIGHTS))


def _check_files(path: Path, manifest: Manifest) -> None:
    needed = {WEIGHTS, GOLDEN, CARD}
    if not needed <= set(manifest.files) <= needed | {ONNX}:
        raise ArtifactInvalid(f"the manifest of {path} does not list the files of an artifact; export it again.")
    for name, expected in manifest.files.items():
        try:
            found = hash_file(path / name)
        except PathMissing as error:
            raise ArtifactInvalid(f"{path} lacks {name}; copy or export the artifact again.") from error
        if found != expected:
            raise ArtifactInvalid(f"{path / name} was changed after it was written; copy or export the artifact again.")


def _check_weights(path: Path, manifest: Manifest) -> None:
    try:
        tensors = safetensors.numpy.load(read_file(path / WEIGHTS))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ArtifactInvalid(f"{path / WEIGHTS} cannot be read; copy or export the artifact again.") from error
    if {name: [t.dtype.name, list(t.shape)] for name, t in tensors.items()} != manifest.tensors:
        raise ArtifactInvalid(
            f"{path / WEIGHTS} holds other tensors than the manifest says; export the artifact again."
        )
    if weights_digest(tensors) != manifest.weights_sha256:
        raise ArtifactInvalid(
            f"{path / WEIGHTS} holds other weights than the manifest says; export the artifact again."
        )
    broken = next((name for name, t in tensors.items() if t.dtype.kind == "f" and not np.isfinite(t).all()), None)
    if broken is not None:
        raise ArtifactInvalid(
            f"the weights hold a number that is not finite, in {broken}; export an earlier checkpoint."
        )


def _build_model(artifact: Artifact) -> Backbone:
    try:
        model = build(artifact.architecture)
    except ArchitectureInvalid as error:
        raise ArtifactInvalid(f"the artifact cannot be rebuilt: {error}") from error
    import torch

    from backbone.weights import load_strict

    mismatch = load_strict(model, {name: torch.from_numpy(t) for name, t in artifact.tensors().items()})
    if mismatch:
        raise ArtifactInvalid(f"the weights do not fit the architecture: {mismatch}; export the artifact again.")
    model.pooling = artifact.manifest.pooling
    model.eval()
    model.requires_grad_(False)
    return model
