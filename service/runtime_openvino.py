"""OpenVINO's runtimes: the artifact's `model.onnx`, compiled for this CPU. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino
from numpy.typing import NDArray

from service.errors import NoAttention
from service.runtime import Precision

_EMBEDDING: Final = ("global_token", "patch_tokens")
_ATTENTION: Final = "attention"
_CAPABILITIES: Final[dict[Precision, str]] = {"bf16": "BF16", "fp16": "FP16", "fp32": "FP32"}
_HINTS: Final[dict[Precision, str]] = {"bf16": "bf16", "fp16": "f16", "fp32": "f32"}


@cache
def _core() -> Any:  # noqa: ANN401 - OpenVINO has no types
    """Return the process's one core, which is never freed.

    Its CPU plugin gives the thread that loads it another stack for signal handlers, and takes that back in whichever thread frees the
    plugin. Where that is another one, the first is left with a stack that is gone, and the next signal ends the process.
    """
    return openvino.Core()


class OpenVino:
    """Makes runtimes for the precisions that this CPU has instructions for."""

    def __init__(self, onnx_path: Path, threads: int) -> None:
        self._onnx_path = onnx_path
        self._threads = threads

    @property
    def precisions(self) -> Sequence[Precision]:
        """Return what this machine computes in."""
        there = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return [precision for precision, capability in _CAPABILITIES.items() if capability in there]

    def build(self, precision: Precision, /) -> OpenVinoRuntime:
        """Compile the network."""
        return OpenVinoRuntime(self._onnx_path, precision, self._threads)


class OpenVinoRuntime:
    """The two outputs that embedding needs; the attention is compiled when it is first asked for."""

    name = "openvino"

    def __init__(self, onnx_path: Path, precision: Precision, threads: int) -> None:
        self.precision: Precision = precision
        self._onnx_path = onnx_path
        self._threads = threads
        self._embed = self._compiled(_EMBEDDING)

    def run(self, pixels: NDArray[np.float32], /) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Compute pixels [B, 3, H, W] -> (global_token [B, D], patch_tokens [B, N, D])."""
        answers = self._embed(pixels)
        # Copies: OpenVINO writes the next batch into the same memory.
        return np.array(answers[0], dtype=np.float32), np.array(answers[1], dtype=np.float32)

    def attention(self, pixels: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Compute pixels [B, 3, H, W] -> what CLS attends to in the last block [B, heads, N]. Raises NoAttention."""
        return np.array(self._attend(pixels)[0], dtype=np.float32)

    @cached_property
    def _attend(self) -> Any:  # noqa: ANN401 - OpenVINO has no types
        return self._compiled((_ATTENTION,))

    def _compiled(self, outputs: Sequence[str]) -> Any:  # noqa: ANN401 - OpenVINO has no types
        model: Any = _core().read_model(self._onnx_path)
        there = {name: output for output in model.outputs for name in output.get_names()}
        if not there.keys() >= set(outputs):
            raise NoAttention("this network has no attention to show; ask for kind=pca.")
        return _core().compile_model(
            openvino.Model([there[name] for name in outputs], model.get_parameters(), "wanted"),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
                "PERFORMANCE_HINT": "LATENCY",  # one batch at a time over all threads; the batcher does the gathering
                "INFERENCE_NUM_THREADS": self._threads,
            },
        )
