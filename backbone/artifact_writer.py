"""The writer of artifacts, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import safetensors.numpy
import torch
from numpy.typing import NDArray

from backbone.artifact import CARD, GOLDEN, MANIFEST, ONNX, WEIGHTS, Artifact, load_artifact
from backbone.durable import new_directory
from backbone.errors import ArtifactInvalid
from backbone.golden import Run, golden_bytes
from backbone.manifest import FORMAT_VERSION, Manifest, fingerprint, weights_digest
from backbone.model import Backbone
from backbone.onnx_export import onnx_bytes
from backbone.preprocess import Preprocess


def write_artifact(
    out: Path,
    model: Backbone,
    preprocess: Preprocess,
    *,
    licence: str,
    lineage: str,
    training: dict[str, Any],
    onnx: bool = True,
) -> Artifact:
    """Write `model` and all that is needed to embed with it to the new directory `out`.

    Args:
        out: a path where nothing is yet.
        model: the trained network; it is put into evaluation mode and onto the CPU.
        preprocess: how images become its input.
        licence: licence of the weights (an SPDX id where there is one).
        lineage: where the initial weights come from.
        training: summary of the training run, plain JSON types.
        onnx: also write `model.onnx`.

    Returns:
        The artifact, loaded and verified.

    Raises:
        OutputNotEmpty, StorageFailed: as `durable.new_directory`.
        ArtifactInvalid: the weights are not finite.
    """
    model = model.to("cpu", torch.float32).eval()
    tensors = {name: np.asarray(t.detach().numpy(), order="C") for name, t in model.state_dict().items()}
    if not all(np.isfinite(t).all() for t in tensors.values()):
        raise ArtifactInvalid("the weights hold a number that is not finite; export an earlier checkpoint.")
    with new_directory(out) as folder:
        files = {WEIGHTS: safetensors.numpy.save(tensors), GOLDEN: golden_bytes(preprocess, torch_run(model))}
        if onnx:
            files[ONNX] = onnx_bytes(model, preprocess.crop)
        digest = weights_digest(tensors)
        mark = fingerprint(digest, model.architecture, model.pooling, preprocess)
        dimension = model.dim * (2 if model.pooling == "cls+mean" else 1)
        card = _model_card(model, dimension, mark, licence, lineage, training)
        files[CARD] = card.encode()
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            architecture=model.architecture.to_dict(),
            dimension=dimension,
            pooling=model.pooling,
            normalized=True,
            pos_embed_resize=model.architecture.params.get("pos_embed_resize"),
            preprocess=preprocess.to_dict(),
            licence=licence,
            lineage=lineage,
            training=json.loads(json.dumps(training, allow_nan=False)),
            versions=_versions(),
            tensors={name: [t.dtype.name, list(t.shape)] for name, t in tensors.items()},
            weights_sha256=digest,
            files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
            fingerprint=mark,
        )
        for name, data in {**files, MANIFEST: manifest.to_bytes()}.items():
            (folder / name).write_bytes(data)
    return load_artifact(out)


def torch_run(model: Backbone) -> Run:
    """Return `model` as a `golden.Run`: arrays in, arrays out."""

    def run(pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.inference_mode():
            tokens = model.tokens(torch.from_numpy(pixels))
        return tokens.global_token.numpy(), tokens.patch_tokens.numpy()

    return run


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def _model_card(
    model: Backbone, dimension: int, mark: str, licence: str, lineage: str, training: dict[str, Any]
) -> str:
    facts = "\n".join(f"- {key}: {value}" for key, value in training.items()) or "- none: the weights were converted"
    return f"""# {model.architecture}

A vision backbone written by dinodex. It turns an image into a vector of {dimension} numbers and length one
({model.pooling} pooling); the cosine of two vectors says how alike their images are.

- fingerprint: {mark}
- licence: {licence}
- initial weights: {lineage}

## Training
{facts}

## Use
```python
from backbone import load_artifact

artifact = load_artifact("this directory")
pixels = artifact.preprocess(open("image.jpg", "rb").read())  # [3, H, W] float32
```
`dinodex serve --artifact DIRECTORY --data DATA` serves it over REST.

## Limits
It knows what its training images showed. Vectors of another fingerprint are not comparable with its own.
"""
