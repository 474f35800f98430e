"""The torch runtime: eager fp32 on the CPU, or on the GPU where there is one. The only module of the service that touches torch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from backbone.artifact import Artifact


class TorchRuntime:
    """The artifact's model in inference mode."""

    name = "torch"
    precision = "fp32"

    def __init__(self, artifact: Artifact, threads: int) -> None:
        # Said explicitly: FAISS brings an OpenMP pool of its own, and two pools of all cores each fight for them.
        torch.set_num_threads(threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = artifact.model.to(self._device)

    @torch.inference_mode()
    def run(self, pixels: NDArray[np.float32], /) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Compute pixels [B, 3, H, W] -> (global_token [B, D], patch_tokens [B, N, D])."""
        tokens = self._model.tokens(torch.from_numpy(pixels).to(self._device))
        return tokens.global_token.float().cpu().numpy(), tokens.patch_tokens.float().cpu().numpy()
