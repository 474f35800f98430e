"""Torch's runtimes: eager or compiled, on the GPU where there is one. The only module of the service that touches torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from backbone.artifact import Artifact
from backbone.errors import NotInstalled
from backbone.pooling import reads_patches
from backbone.vit import ViT
from service.concurrency.core_split import CoreSplit
from service.embedding.runtime import Floats, Precision, Tokens
from service.errors import NoAttention

_DTYPES: Final[dict[Precision, torch.dtype]] = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Torch:
    """Makes runtimes for what this machine's torch computes in."""

    def __init__(self, artifact: Artifact, threads: int, compiled: bool) -> None:
        compilers = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
        if compiled and not any(shutil.which(compiler) for compiler in compilers if compiler):
            raise NotInstalled("torch-compile needs a C++ compiler; install g++, or choose another runtime.")
        self._artifact = artifact
        self._threads = threads
        self._compiled = compiled

    @property
    def precisions(self) -> Sequence[Precision]:
        """Return what this machine computes in: floats of 16 bits are a GPU's, a CPU would only emulate them."""
        if not torch.cuda.is_available():
            return ("bf16", "fp32")
        return ("bf16", "fp16", "fp32") if torch.cuda.is_bf16_supported() else ("fp16", "fp32")

    def build(self, precision: Precision, /) -> TorchRuntime:
        """Put the network where it is computed."""
        return TorchRuntime(self._artifact, precision, self._threads, self._compiled)


class TorchRuntime:
    """The artifact's model in inference mode, with weights in float32 and matrix products in `precision`."""

    def __init__(self, artifact: Artifact, precision: Precision, threads: int, compiled: bool = False) -> None:
        self.name = "torch-compile" if compiled else "torch"
        self.precision: Precision = precision
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = artifact.model.to(self._device)
        self._tokens, self._global_token = self._model.tokens, self._model.global_token
        if compiled and reads_patches(
            artifact.manifest.pooling
        ):  # what is asked for most; compiling takes a minute each
            self._tokens = torch.compile(self._tokens, dynamic=True)
        elif compiled:
            self._global_token = torch.compile(self._global_token, dynamic=True)
        # A GPU computes one batch after the other, and compiled code has its number of threads written into it.
        self.streams = 2 if threads > 1 and self._device.type == "cpu" and not compiled else 1
        self._core_split = CoreSplit([threads - threads // 2, threads // 2] if self.streams == 2 else [threads])
        torch.set_num_threads(threads)

    @torch.inference_mode()
    def run(self, pixels: Floats, patches: bool = True, /) -> Tokens:
        """Compute pixels [B, 3, H, W] -> (global_token [B, D], patch_tokens [B, N, D], or None where they are not asked for)."""
        with self._core_split.acquire() as threads, self._arithmetic():
            # Said explicitly, for this thread: FAISS brings an OpenMP pool of its own, and two pools of all cores fight for them.
            torch.set_num_threads(sum(threads))
            x = torch.from_numpy(pixels).to(self._device)
            if not patches:
                return _array(self._global_token(x)), None
            tokens = self._tokens(x)
            return _array(tokens.global_token), _array(tokens.patch_tokens)

    @torch.inference_mode()
    def attention(self, pixels: Floats, /) -> Floats:
        """Compute pixels [B, 3, H, W] -> what CLS attends to in the last block [B, heads, N]. Raises NoAttention."""
        if not isinstance(self._model, ViT):
            raise NoAttention("this network has no attention to show; ask for kind=pca.")
        with self._arithmetic():
            return _array(self._model.attention(torch.from_numpy(pixels).to(self._device)))

    def _arithmetic(self) -> torch.autocast:
        """Return where matrix products are computed in the precision, and sums and norms in float32."""
        dtype = _DTYPES.get(self.precision)
        return torch.autocast(self._device.type, dtype=dtype, enabled=dtype is not None)


def _array(tensor: Tensor) -> Floats:
    return tensor.float().cpu().numpy()
