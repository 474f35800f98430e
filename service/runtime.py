"""What computes the network, behind one small interface, and the choice between those that are installed.

A runtime is trusted only after the artifact's golden images went through the whole pipeline with it and came out as they were
written (cosine at least 0.9999 in fp32). One that was asked for by name and misses this refuses to start; `auto` takes the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from backbone.artifact import Artifact
from backbone.errors import NotInstalled, SelfTestFailed

RuntimeName = Literal["auto", "torch", "openvino"]


class Runtime(Protocol):
    """One compiled network. `run` is called by one thread at a time."""

    @property
    def name(self) -> str:
        """Return `torch` or `openvino`."""

    @property
    def precision(self) -> str:
        """Return the arithmetic, such as `fp32`."""

    def run(self, pixels: NDArray[np.float32], /) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Compute pixels [B, 3, H, W] -> (global_token [B, D], patch_tokens [B, N, D]), all float32."""


@dataclass(frozen=True)
class Choice:
    """A runtime that passed the self-test, and why it was this one."""

    runtime: Runtime
    cosine: float  # the worst of the golden images
    reason: str


def choose_runtime(artifact: Artifact, name: RuntimeName, threads: int) -> Choice:
    """Build the named runtime, or under `auto` the first of OpenVINO and torch that is there and computes what was written.

    Raises:
        NotInstalled: nothing that can compute this artifact is installed.
        SelfTestFailed: the named runtime, or under `auto` the last one, gives other vectors than the artifact was written with.
    """
    passed_over: list[str] = []
    for candidate in ("openvino", "torch") if name == "auto" else (name,):
        try:
            runtime = _BUILDERS[candidate](artifact, threads)
            cosine = artifact.self_test(runtime.run)
        except (NotInstalled, SelfTestFailed) as error:
            if name != "auto":
                raise
            passed_over.append(f"{candidate}: {error}")
            last = error
            continue
        reason = "asked for by name" if name != "auto" else _reason(candidate, passed_over)
        return Choice(runtime, cosine, reason)
    raise type(last)(f"no runtime can serve this artifact ({'; '.join(passed_over)})") from last


def _reason(candidate: str, passed_over: list[str]) -> str:
    if passed_over:
        return f"the next after {'; '.join(passed_over)}"
    return f"{candidate} is installed, and the fastest on a CPU"


def _openvino(artifact: Artifact, threads: int) -> Runtime:
    if artifact.onnx_path is None:
        raise NotInstalled("the artifact carries no model.onnx; export it without --no-onnx, or use --runtime torch.")
    try:
        from service.runtime_openvino import OpenVinoRuntime
    except ModuleNotFoundError as error:
        raise NotInstalled("OpenVINO is not installed; pip install 'dinodex[openvino]'.") from error
    return OpenVinoRuntime(artifact.onnx_path, threads)


def _torch(artifact: Artifact, threads: int) -> Runtime:
    try:
        from service.runtime_torch import TorchRuntime
    except ModuleNotFoundError as error:
        raise NotInstalled("torch is not installed; pip install 'dinodex[torch]'.") from error
    return TorchRuntime(artifact, threads)


_BUILDERS: dict[str, Callable[[Artifact, int], Runtime]] = {"openvino": _openvino, "torch": _torch}
