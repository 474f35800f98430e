from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from backbone.errors import NotInstalled, SelfTestFailed
from backbone.machine import usable_cores
from backbone.pooling import POOLINGS
from service.embedding.runtime import Precision, Runtime
from service.embedding.runtime_choice import FAMILIES, choose_runtime, warm_up
from service.errors import NoAttention, SettingsInvalid
from service.settings import RuntimeName

if TYPE_CHECKING:
    from backbone import Artifact


Floats = NDArray[np.float32]


class Wrong:
    """A runtime that computes something else."""

    name = "wrong"
    precision: Precision = "fp32"
    streams = 1

    def run(self, pixels: Floats, patches: bool = True, /) -> tuple[Floats, Floats | None]:
        noise = np.random.default_rng(0)
        return noise.normal(size=(len(pixels), 32)).astype("f4"), noise.normal(size=(len(pixels), 16, 32)).astype("f4")

    def attention(self, pixels: Floats, /) -> Floats:
        return np.zeros((len(pixels), 2, 16), "f4")


class Slowed:
    """The artifact in torch's fp32, said to be of another precision, and slowed down."""

    name = "slowed"
    streams = 1

    def __init__(self, artifact: Artifact, precision: Precision, pause_s: float) -> None:
        self._inner = choose_runtime(artifact, "torch", "fp32").runtime
        self.precision = precision
        self._pause_s = pause_s

    def run(self, pixels: Floats, patches: bool = True, /) -> tuple[Floats, Floats | None]:
        time.sleep(self._pause_s)
        return self._inner.run(pixels, patches)

    def attention(self, pixels: Floats, /) -> Floats:
        return self._inner.attention(pixels)


class Made:
    """A family of runtimes that are there already."""

    def __init__(self, *runtimes: Runtime) -> None:
        self._runtimes = {each.precision: each for each in runtimes}

    @property
    def precisions(self) -> list[Precision]:
        return list(self._runtimes)

    def build(self, precision: Precision, /) -> Runtime:
        return self._runtimes[precision]


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a family in the place of one."""

    def put(name: str, *runtimes: Runtime) -> None:
        monkeypatch.setitem(FAMILIES, name, lambda artifact, threads: Made(*runtimes))

    return put


@pytest.fixture
def fast_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every precision measured: no network outruns the decoders."""
    monkeypatch.setattr("service.embedding.runtime_choice.ENOUGH_IMAGES_PER_S", 1e9)


@pytest.fixture
def pixels(tiny_artifact: Artifact, png: Callable[..., bytes]) -> Floats:
    return np.stack([tiny_artifact.preprocess(png(seed=seed)) for seed in range(5)])


@pytest.fixture(scope="module")
def cnn_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    from backbone import Architecture, Preprocess, build
    from backbone.artifact_writer import write_artifact

    return write_artifact(
        tmp_path_factory.mktemp("artifact") / "cnn",
        build(Architecture("resnet", {"depth": 18})),
        Preprocess.for_image_size(32),
        licence="Apache-2.0",
        lineage="random weights, for tests",
        training={},
    )


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_a_runtime_gives_the_tokens_of_the_artifact(tiny_artifact: Artifact, pixels: Floats, name: RuntimeName) -> None:
    import torch

    choice = choose_runtime(tiny_artifact, name, "fp32", threads=1)
    assert (choice.runtime.name, choice.runtime.precision) == (name, "fp32")
    assert choice.cosine >= 0.9999
    assert choice.reason == "asked for by name"
    expected = tiny_artifact.tokens(torch.from_numpy(pixels))
    global_token, patch_tokens = choice.runtime.run(pixels)
    assert (global_token.shape, patch_tokens.shape) == ((5, 32), (5, 16, 32))
    assert global_token.dtype == patch_tokens.dtype == np.float32
    assert np.abs(global_token - expected.global_token.numpy()).max() < 1e-3
    assert np.abs(patch_tokens - expected.patch_tokens.numpy()).max() < 1e-3


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_the_global_token_alone_is_the_one_among_all_tokens_whatever_the_pooling_reads(
    pooled_artifact: Callable[[str], Artifact], pixels: Floats, name: RuntimeName, pooling: str
) -> None:
    runtime = choose_runtime(pooled_artifact(pooling), name, "fp32", threads=2).runtime
    for batch in (pixels[:1], pixels):
        alone, nothing = runtime.run(batch, False)
        global_token, patch_tokens = runtime.run(batch, True)
        assert nothing is None
        assert patch_tokens is not None
        assert patch_tokens.shape == (len(batch), 16, 32)
        np.testing.assert_allclose(alone, global_token, atol=1e-4)


@pytest.mark.parametrize("patches", [False, True])
@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_an_answer_is_not_overwritten_by_the_next_batch(
    tiny_artifact: Artifact, pixels: Floats, name: RuntimeName, patches: bool
) -> None:
    run = choose_runtime(tiny_artifact, name).runtime.run
    first = [each for each in run(pixels[:2], patches) if each is not None]
    kept = [each.copy() for each in first]
    run(pixels[2:4], patches)
    assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))


class WrongAlone(Wrong):
    """A runtime that computes an image alone as something else."""

    def __init__(self, artifact: Artifact) -> None:
        self._inner = choose_runtime(artifact, "torch", "fp32").runtime

    def run(self, pixels: Floats, patches: bool = True, /) -> tuple[Floats, Floats | None]:
        return super().run(pixels) if len(pixels) == 1 else self._inner.run(pixels, patches)


def test_a_runtime_proves_an_image_alone_too(tiny_artifact: Artifact, family: Callable[..., None]) -> None:
    family("torch", WrongAlone(tiny_artifact))
    with pytest.raises(SelfTestFailed, match="golden image 0"):
        choose_runtime(tiny_artifact, "torch", "fp32")


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_calls_side_by_side_give_what_each_gives_alone(
    tiny_artifact: Artifact, pixels: Floats, name: RuntimeName, threads: int
) -> None:
    runtime = choose_runtime(tiny_artifact, name, "fp32", threads).runtime
    assert runtime.streams == min(threads, 2)
    batches = [pixels[:n] + n for n in (1, 2, 3, 5)] * 8
    patches = [n % 3 == 0 for n in range(len(batches))]  # as callers want them, in no order
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(runtime.run, batches, patches))
    for batch, (global_token, patch_tokens), wanted in zip(batches, found, patches, strict=True):
        expected = runtime.run(batch)
        assert np.abs(global_token - expected[0]).max() < 1e-4
        assert (patch_tokens is not None) == wanted
        if patch_tokens is not None:
            assert np.abs(patch_tokens - expected[1]).max() < 1e-4


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_bf16_gives_nearly_the_tokens_of_the_artifact(
    tiny_artifact: Artifact, pixels: Floats, name: RuntimeName
) -> None:
    full, half = (choose_runtime(tiny_artifact, name, precision).runtime for precision in ("fp32", "bf16"))
    assert half.precision == "bf16"
    for a, b in zip(full.run(pixels), half.run(pixels), strict=True):
        assert a.dtype == b.dtype == np.float32
        cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        assert cosines.min() >= 0.999
        assert not np.array_equal(a, b), "it was computed in fp32"


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_torch_gives_the_tokens_of_the_artifact_for_every_batch_size(
    tiny_artifact: Artifact, pixels: Floats
) -> None:
    compiled = choose_runtime(tiny_artifact, "torch-compile", "fp32").runtime
    warm_up(compiled, 32, patches=False, batch_images=5, budget_s=60)
    assert compiled.name == "torch-compile"
    eager = choose_runtime(tiny_artifact, "torch", "fp32").runtime
    for images in range(1, 6):
        for a, b in zip(compiled.run(pixels[:images]), eager.run(pixels[:images]), strict=True):
            assert np.abs(a - b).max() < 1e-3


def test_the_attention_is_the_same_in_torch_and_in_openvino(tiny_artifact: Artifact, pixels: Floats) -> None:
    torch, openvino = (choose_runtime(tiny_artifact, name, "fp32").runtime for name in ("torch", "openvino"))
    expected = torch.attention(pixels)
    assert expected.shape == (5, 2, 16)
    assert (expected > 0).all()
    assert (expected.sum(-1) < 1).all(), "CLS has a share of itself"
    assert np.abs(openvino.attention(pixels) - expected).max() < 1e-5


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_a_network_without_attention_says_so(cnn_artifact: Artifact, name: RuntimeName) -> None:
    with pytest.raises(NoAttention, match="pca"):
        choose_runtime(cnn_artifact, name, "fp32").runtime.attention(np.zeros((1, 3, 32, 32), "f4"))


def test_auto_takes_openvino_where_it_is_installed_and_says_so(tiny_artifact: Artifact) -> None:
    choice = choose_runtime(tiny_artifact)
    assert choice.runtime.name == "openvino"
    assert "openvino" in choice.reason


def test_auto_takes_torch_first_where_there_is_a_gpu(
    tiny_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.embedding.runtime_choice._GPU_DEVICES", (str(tmp_path),))
    assert choose_runtime(tiny_artifact).runtime.name == "torch"


@pytest.mark.usefixtures("fast_decoders")
@pytest.mark.parametrize(("pause_s", "chosen"), [(0.03, "fp32"), (0.01, "bf16")])
def test_less_than_fp32_is_taken_where_it_is_clearly_faster(
    tiny_artifact: Artifact, family: Callable[..., None], pause_s: float, chosen: str
) -> None:
    family("openvino", Slowed(tiny_artifact, "bf16", pause_s), Slowed(tiny_artifact, "fp32", 0.03))
    choice = choose_runtime(tiny_artifact)
    assert choice.runtime.precision == chosen
    for said in ("slowed bf16 with", "slowed fp32 with", "images/s"):
        assert said in choice.reason


@pytest.mark.parametrize(("enough", "chosen"), [(20, "fp32"), (100_000, "bf16")])
def test_less_than_fp32_is_taken_only_where_the_network_is_what_waits(
    tiny_artifact: Artifact, family: Callable[..., None], enough: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.embedding.runtime_choice.ENOUGH_IMAGES_PER_S", enough / usable_cores())
    family("openvino", Slowed(tiny_artifact, "bf16", 0), Slowed(tiny_artifact, "fp32", 0.1))
    choice = choose_runtime(tiny_artifact)
    assert choice.runtime.precision == chosen
    assert ("outruns the decoders" in choice.reason) == (chosen == "fp32")


def test_auto_takes_the_next_one_when_a_runtime_computes_something_else_and_says_so(
    tiny_artifact: Artifact, family: Callable[..., None]
) -> None:
    family("openvino", Wrong())
    choice = choose_runtime(tiny_artifact)
    assert choice.runtime.name == "torch"
    assert "openvino fp32: golden image" in choice.reason


@pytest.mark.usefixtures("fast_decoders")
def test_a_precision_that_computes_something_else_is_passed_over(
    tiny_artifact: Artifact, family: Callable[..., None]
) -> None:
    wrong = Wrong()
    wrong.precision = "bf16"
    family("openvino", wrong, Slowed(tiny_artifact, "fp32", 0))
    choice = choose_runtime(tiny_artifact)
    assert choice.runtime.name == "slowed"
    assert "openvino bf16: golden image" in choice.reason


def test_a_runtime_that_was_asked_for_and_computes_something_else_refuses_to_start(
    tiny_artifact: Artifact, family: Callable[..., None]
) -> None:
    family("torch", Wrong())
    for precision in ("auto", "fp32"):
        with pytest.raises(SelfTestFailed, match="token"):
            choose_runtime(tiny_artifact, "torch", precision)  # type: ignore[arg-type]


def test_a_precision_that_the_machine_lacks_is_refused(tiny_artifact: Artifact) -> None:
    with pytest.raises(SettingsInvalid, match="torch does not compute in fp16 on this machine; choose bf16 or fp32"):
        choose_runtime(tiny_artifact, "torch", "fp16")
    with pytest.raises(SettingsInvalid, match=r"openvino: .*torch: "):
        choose_runtime(tiny_artifact, "auto", "fp16")


def test_when_no_runtime_is_left_each_one_says_why(tiny_artifact: Artifact, family: Callable[..., None]) -> None:
    for name in ("torch", "openvino"):
        family(name, Wrong())
    with pytest.raises(SelfTestFailed, match=r"openvino fp32: .*torch fp32: "):
        choose_runtime(tiny_artifact)


@pytest.mark.parametrize(
    ("budget_s", "sizes"), [(60, [1, 2, 4, 6]), (0.01, [1]), (0.5, [1, 2, 4])], ids=["all", "one", "some"]
)
def test_warming_up_computes_every_batch_size_that_fits_into_the_time(budget_s: float, sizes: list[int]) -> None:
    class Noting(Wrong):
        def run(self, pixels: Floats, patches: bool = True, /) -> tuple[Floats, Floats | None]:
            ran.append(len(pixels))
            time.sleep(0.05 * len(pixels))
            return super().run(pixels)

    ran: list[int] = []
    warm_up(Noting(), 8, patches=False, batch_images=6, budget_s=budget_s)
    assert ran == sizes


SIGNAL = """
import gc, os, signal, sys, threading
from pathlib import Path
from backbone import load_artifact
from service.embedding.runtime_choice import choose_runtime

kept = [choose_runtime(load_artifact(Path(sys.argv[1])), "openvino", "fp32")]
other = threading.Thread(target=lambda: (kept.clear(), gc.collect()))
other.start()
other.join()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_signal_is_handled_after_another_thread_dropped_the_runtime(tiny_artifact: Artifact) -> None:
    command = [sys.executable, "-c", SIGNAL, str(tiny_artifact.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_an_artifact_without_onnx_runs_on_torch_alone(other_artifact: Artifact) -> None:
    with pytest.raises(NotInstalled, match=r"model\.onnx"):
        choose_runtime(other_artifact, "openvino")
    choice = choose_runtime(other_artifact)
    assert choice.runtime.name == "torch"
    assert "model.onnx" in choice.reason


def test_a_cpu_deployment_on_openvino_never_imports_torch(tiny_artifact: Artifact) -> None:
    code = """
import sys
sys.modules["torch"] = None  # as if it were not installed
import service
from backbone import load_artifact
from service.embedding.runtime_choice import choose_runtime
print(choose_runtime(load_artifact(sys.argv[1])).runtime.name)
"""
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tiny_artifact.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout == "openvino\n", answer.stderr
