"""The ONNX export of a network, for runtimes that are not torch."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from backbone.errors import NotInstalled
from backbone.model import Backbone
from backbone.vit import ViT

OPSET = 18  # the oldest with all that is needed, for the widest choice of runtimes


class _WithAttention(nn.Module):
    def __init__(self, model: ViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.model.outputs(pixels)


class _TokensOnly(nn.Module):
    def __init__(self, model: Backbone) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.model.tokens(pixels)
        return tokens.global_token, tokens.patch_tokens


def onnx_bytes(model: Backbone, image_size: int) -> bytes:
    """Export to ONNX.

    Args:
        model: in evaluation mode, on the CPU.
        image_size: side in pixels of the square input; the position table is resized to it once, here.

    Returns:
        A model with input `pixels` [B, 3, image_size, image_size] float32 (B is free) and outputs `global_token` [B, D],
        `patch_tokens` [B, N, D] and, for a ViT, `attention` [B, H, N] of the last block's CLS token.

    Raises:
        NotInstalled: onnx or onnxscript is not there.
    """
    names = ["global_token", "patch_tokens"]
    wrapped: nn.Module
    if isinstance(model, ViT):
        wrapped, names = _WithAttention(at_image_size(model, image_size)), [*names, "attention"]
    else:
        wrapped = _TokensOnly(model)
    wrapped.eval()
    example = torch.zeros(2, 3, image_size, image_size)
    with tempfile.TemporaryDirectory() as folder, _quietly():
        path = Path(folder) / "model.onnx"
        try:
            torch.onnx.export(
                wrapped,
                (example,),
                path,
                input_names=["pixels"],
                output_names=names,
                opset_version=OPSET,
                dynamic_shapes={"pixels": {0: torch.export.Dim("B")}},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except ModuleNotFoundError as error:
            message = f"{error.name} is needed to write model.onnx; run: pip install 'dinodex[train]', or export with --no-onnx."
            raise NotInstalled(message) from error
        return path.read_bytes()


def at_image_size(model: ViT, image_size: int) -> ViT:
    """Return a copy whose position table is made for images of `image_size` pixels, so that the graph holds no resize."""
    grid = image_size // model.stride
    copy = ViT(replace(model.config, image_size=grid * model.stride))
    state = model.state_dict()
    state["pos_embed"] = model.positions(grid, grid).detach()
    copy.load_state_dict(state)
    return copy.eval()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter's progress and deprecation notes, which concern its own code, off the terminal."""
    logger = logging.getLogger("torch.onnx")
    before, logger.level = logger.level, logging.ERROR
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.level = before
