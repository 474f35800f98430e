"""OpenVINO's runtimes: the artifact's `model.onnx`, compiled for this CPU. Needs no torch.

It is compiled twice. Most batches run side by side, each in a stream over half of the threads, in a network that gives what the
artifact's pooling reads and computes no more. The other network gives all tokens over all threads: to an image that is alone, and to
who asks for patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino

from service.concurrency.core_split import CoreSplit
from service.embedding.runtime import Floats, Precision, Tokens
from service.errors import NoAttention

_TOKENS: Final = ("global_token", "patch_tokens")
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

    def __init__(self, onnx_path: Path, threads: int, patches: bool = True) -> None:
        self._onnx_path = onnx_path
        self._threads = threads
        self._patches = patches  # whether the artifact's pooling reads them

    @property
    def precisions(self) -> Sequence[Precision]:
        """Return what this machine computes in."""
        there = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return [precision for precision, capability in _CAPABILITIES.items() if capability in there]

    def build(self, precision: Precision, /) -> OpenVinoRuntime:
        """Compile the network."""
        return OpenVinoRuntime(self._onnx_path, precision, self._threads, self._patches)


class OpenVinoRuntime:
    """The network compiled for embedding; that for the attention is compiled when it is first asked for."""

    name = "openvino"

    def __init__(self, onnx_path: Path, precision: Precision, threads: int, patches: bool) -> None:
        self.precision: Precision = precision
        self._onnx_path = onnx_path
        self._threads = threads
        self.streams = min(2, threads)
        self._one_stream = self._compiled(_TOKENS, streams=1)
        self._streams_give = _TOKENS if patches else _TOKENS[:1]
        shared = self._compiled(self._streams_give, self.streams)
        self._core_split = CoreSplit([shared.create_infer_request() for _ in range(self.streams)])

    def run(self, pixels: Floats, patches: bool = True, /) -> Tokens:
        """Compute pixels [B, 3, H, W] -> (global_token [B, D], patch_tokens [B, N, D], or None where they are not asked for)."""
        outputs = _TOKENS if patches else _TOKENS[:1]
        exclusive = len(outputs) > len(self._streams_give)
        # What is returned is a copy: OpenVINO writes the next batch into the same memory.
        with self._core_split.acquire(exclusive) as requests:
            if exclusive or (len(pixels) == 1 and len(requests) == self.streams):
                answers = self._one_stream(pixels, share_inputs=True)
                global_token, *patch_tokens = (np.array(answers[name], dtype=np.float32) for name in outputs)
                return global_token, patch_tokens[0] if patches else None
            used = requests[: len(pixels)]
            with ExitStack() as running:  # none is left running, whatever one of them raises
                for request, part in zip(used, np.array_split(pixels, len(used)), strict=True):
                    request.start_async(part, share_inputs=True)
                    running.callback(request.wait)
            global_token, *patch_tokens = (
                np.concatenate([request.get_tensor(name).data for request in used]) for name in outputs
            )
        return global_token, patch_tokens[0] if patches else None

    def attention(self, pixels: Floats, /) -> Floats:
        """Compute pixels [B, 3, H, W] -> what CLS attends to in the last block [B, heads, N]. Raises NoAttention."""
        return np.array(self._attend(pixels)[0], dtype=np.float32)

    @cached_property
    def _attend(self) -> Any:  # noqa: ANN401 - OpenVINO has no types
        return self._compiled((_ATTENTION,), streams=1)

    def _compiled(self, outputs: Sequence[str], streams: int) -> Any:  # noqa: ANN401 - OpenVINO has no types
        """Return the network for so many batches at a time, which share the threads."""
        model: Any = _core().read_model(self._onnx_path)
        there = {name: output for output in model.outputs for name in output.get_names()}
        if not there.keys() >= set(outputs):
            raise NoAttention("this network has no attention to show; ask for kind=pca.")
        return _core().compile_model(
            openvino.Model([there[name] for name in outputs], model.get_parameters(), "wanted"),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": self._threads,
            },
        )
