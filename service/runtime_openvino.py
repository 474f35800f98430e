"""The OpenVINO runtime: the artifact's `model.onnx`, compiled for this CPU. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

_OUTPUTS = ("global_token", "patch_tokens")


class OpenVinoRuntime:
    """The two outputs that embedding needs; the attention output is not compiled."""

    name = "openvino"
    precision = "fp32"

    def __init__(self, onnx_path: Path, threads: int) -> None:
        core = openvino.Core()
        model: Any = core.read_model(onnx_path)
        wanted = openvino.Model([model.output(name) for name in _OUTPUTS], model.get_parameters(), "embed")
        self._compiled: Any = core.compile_model(
            wanted,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "f32",  # on a CPU with bf16 the default is bf16, which misses the 0.9999 of fp32
                "PERFORMANCE_HINT": "LATENCY",  # one batch at a time over all threads; the batcher does the gathering
                "INFERENCE_NUM_THREADS": threads,
            },
        )

    def run(self, pixels: NDArray[np.float32], /) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Compute pixels [B, 3, H, W] -> (global_token [B, D], patch_tokens [B, N, D])."""
        answers = self._compiled(pixels)
        # Copies: OpenVINO writes the next batch into the same memory.
        return np.array(answers[0], dtype=np.float32), np.array(answers[1], dtype=np.float32)
