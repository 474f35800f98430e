"""The choice of a runtime among those that this machine has.

A family (OpenVINO, torch, compiled torch) makes runtimes, one for each precision that the machine computes in. A runtime is trusted
only after the artifact's golden images went through the whole pipeline with it and came out as they were written: cosine at least
0.9999 in fp32, 0.999 in less. One that was asked for by name and misses this refuses to start; where the choice is open, the next is
taken.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from backbone import golden
from backbone.artifact import MINIMUM_COSINE, Artifact
from backbone.errors import NotInstalled, SelfTestFailed
from backbone.machine import usable_cores
from backbone.pooling import reads_patches
from service.embedding.runtime import Family, Floats, ForwardPass, Precision, Runtime
from service.errors import SettingsInvalid
from service.settings import PrecisionName, RuntimeName

LESS_MUST_PAY: Final = 1.2  # times as fast as fp32; a smaller gain is noise, and fp32 is closest to what training saw
ENOUGH_IMAGES_PER_S: Final = (
    500  # per core, in fp32: more than a core decodes, so that less precision would buy nothing
)
MEASURED_IMAGES: Final = 8  # in a batch: between one request and a full pass
_MEASURED_S: Final = 1.0  # a large network shows its speed in one pass
_MEASURED_PASSES: Final = 5
_GPU_DEVICES: Final = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of NVIDIA, AMD, and either under WSL


@dataclass(frozen=True)
class Choice:
    """A runtime that passed the self-test, and why it was this one."""

    runtime: Runtime
    cosine: float  # the worst of the golden images
    reason: str


@dataclass(frozen=True)
class _Proven:
    runtime: Runtime
    cosine: float
    images_per_s: float

    @property
    def worth(self) -> float:
        """Return what it is chosen by."""
        return self.images_per_s * (LESS_MUST_PAY if self.runtime.precision == "fp32" else 1)

    def __str__(self) -> str:
        return f"{self.runtime.name} {self.runtime.precision} with {self.images_per_s:.3g} images/s"


def choose_runtime(
    artifact: Artifact, name: RuntimeName = "auto", precision: PrecisionName = "auto", threads: int = 1
) -> Choice:
    """Build what was asked for; of what was left open, the fastest that computes what the artifact was written with.

    Between families `auto` goes by what is known: on a CPU, OpenVINO is faster than torch; a GPU, where torch computes, is faster
    than a CPU. Between the precisions of a family it measures, unless fp32 already outruns the decoders. It never compiles torch,
    which takes a minute at each start.

    Args:
        artifact: the network.
        name: a family, or `auto`.
        precision: what it computes in, or `auto`.
        threads: of the CPU.

    Raises:
        NotInstalled: nothing that can compute this artifact is installed.
        SettingsInvalid: this machine does not compute in that precision.
        SelfTestFailed: all that was left to choose from gives other vectors than the artifact was written with.
    """
    refused: dict[str, Exception] = {}
    for family in _families(name):
        proven = _fastest(artifact, family, precision, threads, refused)
        if proven is not None:
            asked = "auto" not in (name, precision)
            return Choice(proven[0].runtime, proven[0].cosine, _reason(asked, proven, list(refused)))
    *_, last = refused.values()
    if len(refused) == 1 and name != "auto":
        raise last
    raise type(last)(f"no runtime can serve this artifact ({'; '.join(refused)})") from last


def warm_up(runtime: Runtime, side: int, patches: bool, batch_images: int, budget_s: float) -> None:
    """Compute batches of 1, 2, 4, ... `batch_images` images of `side` pixels, so that no request pays for what a size costs once.

    `patches` says whether the patch tokens are what is asked for.
    Stops before a size that would go over the budget: a large network on a CPU has little to gain, and much to lose at its start.
    """
    begun = time.perf_counter()
    images_per_s = float("inf")
    for images in _doubling(batch_images):
        spent_s = time.perf_counter() - begun
        if spent_s + images / images_per_s > budget_s:
            return
        runtime.run(np.zeros((images, 3, side, side), np.float32), patches)
        images_per_s = images / (time.perf_counter() - begun - spent_s)


def _doubling(most: int) -> Iterator[int]:
    images = 1
    while images < most:
        yield images
        images *= 2
    yield most


def _families(name: RuntimeName) -> Sequence[str]:
    if name != "auto":
        return (name,)
    gpu = any(Path(device).exists() for device in _GPU_DEVICES)
    return ("torch", "openvino") if gpu else ("openvino", "torch")


def _fastest(
    artifact: Artifact, name: str, precision: PrecisionName, threads: int, refused: dict[str, Exception]
) -> tuple[_Proven, list[str]] | None:
    """Return the best runtime of a family and what all of them measured, or None; notes in `refused` what does not serve, and why."""
    try:
        family = FAMILIES[name](artifact, threads)
        wanted = _wanted(name, family.precisions, precision)
    except (NotInstalled, SettingsInvalid) as error:
        refused[f"{name}: {error}"] = error
        return None
    best: _Proven | None = None
    measured: list[str] = []
    for each in wanted:
        try:
            proven = _prove(artifact, family.build(each), alone=len(wanted) == 1)
        except (NotInstalled, SelfTestFailed) as error:
            refused[f"{name} {each}: {error}"] = error
            continue
        measured.append(str(proven))
        if best is None or proven.worth > best.worth:
            best = proven
        if each == "fp32" and proven.images_per_s >= ENOUGH_IMAGES_PER_S * usable_cores():
            break
    return None if best is None else (best, measured)


def _wanted(name: str, there: Sequence[Precision], precision: PrecisionName) -> Sequence[Precision]:
    if precision == "auto":
        return sorted(there, key=lambda each: each != "fp32")
    if precision not in there:
        raise SettingsInvalid(
            f"{name} does not compute in {precision} on this machine; choose {' or '.join(there)}, or leave it to auto."
        )
    return (precision,)


def _prove(artifact: Artifact, runtime: Runtime, alone: bool) -> _Proven:
    """Have a runtime compute the golden images, and, where others are to be compared, a few batches. Raises SelfTestFailed."""
    least = MINIMUM_COSINE["float32" if runtime.precision == "fp32" else "bfloat16"]
    cosine = artifact.self_test(_every_way(runtime.run), least)
    if alone:
        return _Proven(runtime, cosine, 0.0)
    patches = reads_patches(artifact.manifest.pooling)
    return _Proven(runtime, cosine, _images_per_s(runtime, artifact.preprocess.crop, patches))


def _every_way(forward: ForwardPass) -> golden.Run:
    """Return all tokens as a runtime gives them in each of its ways: an image alone and several, the global token and the patches."""

    def all_tokens(pixels: Floats) -> tuple[Floats, Floats]:
        parts = pixels[:1], pixels[1:]
        global_token = np.concatenate([forward(part, False)[0] for part in parts])
        patch_tokens = [forward(part, True)[1] for part in parts]
        return global_token, np.concatenate([each for each in patch_tokens if each is not None])

    return all_tokens


def _images_per_s(runtime: Runtime, side: int, patches: bool) -> float:
    pixels = np.zeros((MEASURED_IMAGES, 3, side, side), np.float32)
    passes: list[float] = []
    while len(passes) < _MEASURED_PASSES and sum(passes) < _MEASURED_S:
        begun = time.perf_counter()
        runtime.run(pixels, patches)
        passes.append(time.perf_counter() - begun)
    return MEASURED_IMAGES / statistics.median(passes)


def _reason(asked: bool, proven: tuple[_Proven, list[str]], refused: list[str]) -> str:
    best, measured = proven
    if asked:
        return "asked for by name"
    said = _compared(best, measured) if len(measured) > 1 else _alone(best)
    return f"{said}; passed over: {'; '.join(refused)}" if refused else said


def _alone(best: _Proven) -> str:
    said = f"{best.runtime.name} is the fastest here that is installed"
    return f"{said}; {best} outruns the decoders" if best.images_per_s else said


def _compared(best: _Proven, measured: list[str]) -> str:
    others = " and ".join(each for each in measured if each != str(best))
    return f"measured in batches of {MEASURED_IMAGES}: {best}, {others}; less than fp32 is taken from {LESS_MUST_PAY} times its speed"


def _openvino(artifact: Artifact, threads: int) -> Family:
    if artifact.onnx_path is None:
        raise NotInstalled("the artifact carries no model.onnx; export it without --no-onnx, or use --runtime torch.")
    try:
        from service.embedding.runtime_openvino import OpenVino
    except ModuleNotFoundError as error:
        raise NotInstalled("OpenVINO is not installed; pip install 'dinodex[openvino]'.") from error
    return OpenVino(artifact.onnx_path, threads, reads_patches(artifact.manifest.pooling))


def _torch(artifact: Artifact, threads: int) -> Family:
    return _torch_family(artifact, threads, compiled=False)


def _torch_compile(artifact: Artifact, threads: int) -> Family:
    return _torch_family(artifact, threads, compiled=True)


def _torch_family(artifact: Artifact, threads: int, compiled: bool) -> Family:
    try:
        from service.embedding.runtime_torch import Torch
    except ModuleNotFoundError as error:
        raise NotInstalled("torch is not installed; pip install 'dinodex[torch]'.") from error
    return Torch(artifact, threads, compiled)


FAMILIES: dict[str, Callable[[Artifact, int], Family]] = {
    "openvino": _openvino,
    "torch": _torch,
    "torch-compile": _torch_compile,
}
