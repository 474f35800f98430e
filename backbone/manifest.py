"""The manifest of an artifact: what it says, how it is written, and the fingerprint that binds vectors to their maker."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from backbone.architecture import Architecture
from backbone.errors import ArtifactInvalid
from backbone.preprocess import Preprocess

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """Everything about an artifact but its weights."""

    format_version: int
    architecture: dict[str, Any]  # `Architecture.to_dict`
    dimension: int  # of the pooled vector
    pooling: str  # cls, mean or cls+mean
    normalized: bool  # vectors have length one
    pos_embed_resize: str | None  # hub_offset, exact or exact_antialias; None where there is no position table
    preprocess: dict[str, Any]  # `Preprocess.to_dict`
    licence: str
    lineage: str  # where the initial weights come from
    training: dict[str, Any]  # data fingerprint, recipe, steps, seed, kNN; empty for converted weights
    versions: dict[str, str]
    tensors: dict[str, list[Any]]  # name: [dtype, shape]
    weights_sha256: str  # `weights_digest` of the tensors
    files: dict[str, str]  # name: sha256
    fingerprint: str

    def to_bytes(self) -> bytes:
        """Return the one text that stands for this manifest."""
        return (json.dumps(asdict(self), sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read and check a manifest by itself.

        Raises:
            ArtifactInvalid: not the text that `to_bytes` writes, an unknown format version, or a fingerprint that its own fields
                do not give.
        """
        try:
            read = json.loads(data)
            version = read.get("format_version")
            if version != FORMAT_VERSION:
                raise ArtifactInvalid(
                    f"the artifact has format version {version!r} and this dinodex reads {FORMAT_VERSION}; "
                    "use the dinodex version that wrote it, or export it again."
                )
            manifest = cls(**read)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ArtifactInvalid("manifest.json is damaged; copy or export the artifact again.") from error
        if {field.name for field in fields(cls)} != set(read) or manifest.to_bytes() != data:
            raise ArtifactInvalid("manifest.json was changed after it was written; copy or export the artifact again.")
        try:
            expected = manifest.fingerprint_for(manifest.pooling)
        except (TypeError, KeyError) as error:
            raise ArtifactInvalid("manifest.json is damaged; copy or export the artifact again.") from error
        if manifest.fingerprint != expected:
            raise ArtifactInvalid(
                "the manifest's fingerprint does not fit its content; copy or export the artifact again."
            )
        return manifest

    def fingerprint_for(self, output: str) -> str:
        """Return the fingerprint of vectors pooled as `output` (a pooling, or `patches`)."""
        return fingerprint(
            self.weights_sha256,
            Architecture.from_dict(self.architecture),
            output,
            Preprocess.from_dict(self.preprocess),
        )


def fingerprint(weights_sha256: str, architecture: Architecture, output: str, preprocess: Preprocess) -> str:
    """Return sha256 over what decides a vector: weights, architecture, pooling and preprocess; no path, date or runtime is in it."""
    facts = {
        "architecture": architecture.to_dict(),
        "normalized": True,
        "output": output,
        "preprocess": preprocess.to_dict(),
        "weights": weights_sha256,
    }
    return hashlib.sha256(canonical_json(facts)).hexdigest()


def weights_digest(tensors: dict[str, NDArray[Any]]) -> str:
    """Return sha256 over names, dtypes, shapes and little-endian bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = np.asarray(tensors[name], order="C")
        tensor = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
        digest.update(canonical_json([name, tensor.dtype.name, list(tensor.shape)]))
        digest.update(tensor.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def canonical_json(data: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """Return the one text for a JSON value: sorted keys, no spaces, shortest floats."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()
