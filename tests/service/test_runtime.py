from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from backbone.errors import NotInstalled, SelfTestFailed
from service import runtime
from service.runtime import RuntimeName, choose_runtime

if TYPE_CHECKING:
    from backbone import Artifact


Floats = NDArray[np.float32]


class Wrong:
    """A runtime that computes something else."""

    name = "wrong"
    precision = "fp32"

    def run(self, pixels: Floats, /) -> tuple[Floats, Floats]:
        noise = np.random.default_rng(0)
        return noise.normal(size=(len(pixels), 32)).astype("f4"), noise.normal(size=(len(pixels), 16, 32)).astype("f4")


@pytest.fixture
def pixels(tiny_artifact: Artifact, png: Callable[..., bytes]) -> Floats:
    return np.stack([tiny_artifact.preprocess(png(seed=seed)) for seed in range(5)])


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_a_runtime_gives_the_tokens_of_the_artifact(tiny_artifact: Artifact, pixels: Floats, name: RuntimeName) -> None:
    import torch

    choice = choose_runtime(tiny_artifact, name, threads=1)
    assert choice.runtime.name == name
    assert choice.cosine >= 0.9999
    expected = tiny_artifact.tokens(torch.from_numpy(pixels))
    global_token, patch_tokens = choice.runtime.run(pixels)
    assert (global_token.shape, patch_tokens.shape) == ((5, 32), (5, 16, 32))
    assert global_token.dtype == patch_tokens.dtype == np.float32
    assert np.abs(global_token - expected.global_token.numpy()).max() < 1e-3
    assert np.abs(patch_tokens - expected.patch_tokens.numpy()).max() < 1e-3


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_an_answer_is_not_overwritten_by_the_next_batch(
    tiny_artifact: Artifact, pixels: Floats, name: RuntimeName
) -> None:
    run = choose_runtime(tiny_artifact, name, threads=1).runtime.run
    first = run(pixels[:2])
    kept = [each.copy() for each in first]
    run(pixels[2:4])
    assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))


def test_auto_takes_openvino_where_it_is_installed_and_says_so(tiny_artifact: Artifact) -> None:
    choice = choose_runtime(tiny_artifact, "auto", threads=1)
    assert choice.runtime.name == "openvino"
    assert "openvino" in choice.reason


def test_auto_takes_the_next_one_when_a_runtime_computes_something_else_and_says_so(
    tiny_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(runtime._BUILDERS, "openvino", lambda artifact, threads: Wrong())
    choice = choose_runtime(tiny_artifact, "auto", threads=1)
    assert choice.runtime.name == "torch"
    assert "openvino: " in choice.reason


def test_a_runtime_that_was_asked_for_and_computes_something_else_refuses_to_start(
    tiny_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(runtime._BUILDERS, "torch", lambda artifact, threads: Wrong())
    with pytest.raises(SelfTestFailed, match="token"):
        choose_runtime(tiny_artifact, "torch", threads=1)


def test_when_no_runtime_is_left_each_one_says_why(tiny_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "openvino"):
        monkeypatch.setitem(runtime._BUILDERS, name, lambda artifact, threads: Wrong())
    with pytest.raises(SelfTestFailed, match=r"openvino: .*torch: "):
        choose_runtime(tiny_artifact, "auto", threads=1)


def test_an_artifact_without_onnx_runs_on_torch_alone(other_artifact: Artifact) -> None:
    with pytest.raises(NotInstalled, match=r"model\.onnx"):
        choose_runtime(other_artifact, "openvino", threads=1)
    choice = choose_runtime(other_artifact, "auto", threads=1)
    assert choice.runtime.name == "torch"
    assert "model.onnx" in choice.reason


def test_a_cpu_deployment_on_openvino_never_imports_torch(tiny_artifact: Artifact) -> None:
    code = """
import sys
sys.modules["torch"] = None  # as if it were not installed
import service
from backbone import load_artifact
from service.runtime import RuntimeName, choose_runtime
print(choose_runtime(load_artifact(sys.argv[1]), "auto", 1).runtime.name)
"""
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tiny_artifact.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout == "openvino\n", answer.stderr
