from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from pictures import encoded, picture

from backbone import Artifact, Preprocess, load_artifact
from backbone.artifact import GOLDEN, MANIFEST, ONNX, WEIGHTS
from backbone.artifact_writer import torch_run, write_artifact
from backbone.errors import ArtifactInvalid, OutputNotEmpty, PathMissing, SelfTestFailed
from backbone.manifest import weights_digest


@pytest.fixture
def copy(tiny_artifact: Artifact, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_artifact.path, tmp_path / "copy")


def rewrite(path: Path, **changes: object) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    manifest.update(changes)
    (path / MANIFEST).write_text(json.dumps(manifest, sort_keys=True, indent=2, ensure_ascii=False) + "\n")


def test_an_artifact_has_the_files_and_facts_that_it_promises(tiny_artifact: Artifact) -> None:
    names = {path.name for path in tiny_artifact.path.iterdir()}
    assert names == {"manifest.json", "weights.safetensors", "golden.npz", "MODEL_CARD.md", "model.onnx"}
    manifest = tiny_artifact.manifest
    assert (manifest.dimension, manifest.pooling, manifest.normalized) == (32, "cls", True)
    assert manifest.pos_embed_resize == "exact"
    assert len(tiny_artifact.fingerprint) == 64
    assert tiny_artifact.fingerprint in (tiny_artifact.path / "MODEL_CARD.md").read_text()


def test_a_loaded_model_embeds_an_image_as_a_unit_vector(tiny_artifact: Artifact) -> None:
    x = torch.from_numpy(tiny_artifact.preprocess(encoded(picture())))[None]
    tokens = tiny_artifact.model.tokens(x)
    assert tokens.global_token.shape == (1, 32)
    assert tokens.patch_tokens.shape == (1, 16, 32)
    vector = tiny_artifact.embed(x)
    assert torch.equal(vector, tiny_artifact.model.embed(x))
    assert float(vector.norm()) == pytest.approx(1.0, abs=1e-6)
    assert torch.equal(tiny_artifact.tokens(x).global_token, tokens.global_token)


def test_every_flipped_byte_of_every_file_is_noticed(copy: Path) -> None:
    generator = np.random.default_rng(0)
    for file in sorted(copy.iterdir()):
        whole = file.read_bytes()
        for position in {0, len(whole) - 1, *generator.integers(0, len(whole), 12).tolist()}:
            damaged = bytearray(whole)
            damaged[position] ^= 1 << int(generator.integers(0, 8))
            file.write_bytes(bytes(damaged))
            with pytest.raises(ArtifactInvalid):
                load_artifact(copy)
        file.write_bytes(whole)
    load_artifact(copy)


def test_a_manifest_that_was_only_laid_out_anew_is_noticed(copy: Path) -> None:
    (copy / MANIFEST).write_text(json.dumps(json.loads((copy / MANIFEST).read_text())))
    with pytest.raises(ArtifactInvalid, match="changed after it was written"):
        load_artifact(copy)


@pytest.mark.parametrize("name", ["weights.safetensors", "golden.npz", "MODEL_CARD.md", "model.onnx", "manifest.json"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ArtifactInvalid, match=name):
        load_artifact(copy)


def test_a_path_that_is_not_there_and_one_that_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(PathMissing):
        load_artifact(tmp_path / "none")
    with pytest.raises(ArtifactInvalid, match="not an artifact"):
        load_artifact(tmp_path)


def test_a_later_format_is_refused_by_its_number(copy: Path) -> None:
    rewrite(copy, format_version=2)
    with pytest.raises(ArtifactInvalid, match="format version 2"):
        load_artifact(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": "0" * 64},
        {"pooling": "mean"},
        {"weights_sha256": "0" * 64},
        {"files": {}},
        {"unknown": 1},
        {"architecture": {}},
        {"preprocess": {}},
        {"files": {"../../etc/passwd": "0"}},
    ],
)
def test_a_forged_manifest_is_refused(copy: Path, changes: dict[str, Any]) -> None:
    rewrite(copy, **changes)
    with pytest.raises(ArtifactInvalid):
        load_artifact(copy)


def test_a_manifest_nested_too_deep_is_refused(copy: Path) -> None:
    (copy / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(ArtifactInvalid):
        load_artifact(copy)


def test_the_fingerprint_knows_weights_pooling_and_preprocess_but_no_path_or_date(
    tiny_artifact: Artifact, other_artifact: Artifact, tmp_path: Path
) -> None:
    def write(name: str, pooling: str = "cls", image_size: int = 32) -> Artifact:
        model = load_artifact(tiny_artifact.path).model
        model.pooling = pooling
        facts: dict[str, Any] = {"licence": name, "lineage": name, "training": {"name": name}, "onnx": False}
        return write_artifact(tmp_path / name, model, Preprocess.for_image_size(image_size), **facts)

    assert write("again").fingerprint == tiny_artifact.fingerprint
    marks = {write("mean", pooling="mean").fingerprint, write("larger", image_size=48).fingerprint}
    assert len(marks | {tiny_artifact.fingerprint, other_artifact.fingerprint}) == 4
    assert tiny_artifact.fingerprint_for("mean") == load_artifact(tmp_path / "mean").fingerprint
    assert tiny_artifact.fingerprint_for("cls") == tiny_artifact.fingerprint


def test_the_digest_of_weights_does_not_depend_on_order_or_layout() -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.float32(3)
    digest = weights_digest({"a": a, "b": np.asarray(b)})
    assert weights_digest({"b": np.asarray(b), "a": np.asfortranarray(a)}) == digest
    assert weights_digest({"a": a.reshape(3, 2), "b": np.asarray(b)}) != digest


def test_torch_and_onnx_pass_the_self_test_and_another_model_fails_it(
    tiny_artifact: Artifact, other_artifact: Artifact
) -> None:
    assert tiny_artifact.self_test(torch_run(tiny_artifact.model)) > 0.99999
    with pytest.raises(SelfTestFailed, match="golden image"):
        tiny_artifact.self_test(torch_run(other_artifact.model))
    with pytest.raises(SelfTestFailed):
        tiny_artifact.self_test(lambda x: (np.full((len(x), 32), np.nan, "f"), np.zeros((len(x), 16, 32), "f")))
    with pytest.raises(SelfTestFailed, match="shape"):
        tiny_artifact.self_test(lambda x: (np.ones((len(x), 8), "f"), np.ones((len(x), 16, 8), "f")))


def test_onnx_s_last_block_computes_no_more_than_the_outputs_that_are_compiled_need(tiny_artifact: Artifact) -> None:
    openvino = pytest.importorskip("openvino")
    network = openvino.Core().read_model(tiny_artifact.onnx_path)
    there = {name: output for output in network.outputs for name in output.get_names()}
    depth, hidden, tokens = 2, 128, 17
    wide = {}
    for outputs in (("global_token",), ("attention",), ("patch_tokens",), ("global_token", "patch_tokens")):
        wanted = openvino.Model([there[name] for name in outputs], network.get_parameters(), "wanted")
        products = [
            op.output(0).get_partial_shape() for op in wanted.get_ordered_ops() if op.get_type_name() == "MatMul"
        ]
        wide[outputs] = sum(shape[1] == tokens and shape[2] == hidden for shape in products if len(shape) == 3)
    assert list(wide.values()) == [depth - 1, depth - 1, depth, depth]


def test_onnx_has_the_promised_names_and_a_free_batch(tiny_artifact: Artifact) -> None:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(tiny_artifact.onnx_path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert [o.any_name for o in compiled.inputs] == ["pixels"]
    assert [o.any_name for o in compiled.outputs] == ["global_token", "patch_tokens", "attention"]
    for batch in (1, 5):
        x = np.random.default_rng(0).normal(size=(batch, 3, 32, 32)).astype(np.float32)
        found = compiled(x)
        with torch.inference_mode():
            tokens = tiny_artifact.model.tokens(torch.from_numpy(x))  # type: ignore[operator]
            attention = tiny_artifact.model.attention(torch.from_numpy(x))  # type: ignore[operator]
        np.testing.assert_allclose(found["global_token"], tokens.global_token.numpy(), atol=2e-5)
        np.testing.assert_allclose(found["patch_tokens"], tokens.patch_tokens.numpy(), atol=2e-5)
        np.testing.assert_allclose(found["attention"], attention.numpy(), atol=2e-5)


def test_onnx_is_left_out_when_asked(other_artifact: Artifact) -> None:
    assert other_artifact.onnx_path is None
    assert not (other_artifact.path / ONNX).exists()


def test_weights_that_are_not_finite_are_never_written_nor_loaded(tiny_artifact: Artifact, tmp_path: Path) -> None:
    model = load_artifact(tiny_artifact.path).model
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(ArtifactInvalid, match="not finite"):
        write_artifact(
            tmp_path / "nan", model, Preprocess.for_image_size(32), licence="", lineage="", training={}, onnx=False
        )
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_is_not_written_over_something(tiny_artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(OutputNotEmpty):
        write_artifact(
            tmp_path, tiny_artifact.model, tiny_artifact.preprocess, licence="", lineage="", training={}, onnx=False
        )


def test_weights_of_another_shape_do_not_become_a_model(copy: Path) -> None:
    """Even a consistent forgery, hashes and all, is stopped by the strict load."""
    import hashlib

    from backbone.architecture import Architecture
    from backbone.manifest import fingerprint

    tensors = safetensors.numpy.load((copy / WEIGHTS).read_bytes())
    tensors["norm.weight"] = tensors["norm.weight"][:-1]
    data = safetensors.numpy.save(tensors)
    (copy / WEIGHTS).write_bytes(data)
    manifest = json.loads((copy / MANIFEST).read_text())
    digest = weights_digest(tensors)
    architecture, preprocess = (
        Architecture.from_dict(manifest["architecture"]),
        Preprocess.from_dict(manifest["preprocess"]),
    )
    rewrite(
        copy,
        tensors={name: [t.dtype.name, list(t.shape)] for name, t in tensors.items()},
        files={**manifest["files"], WEIGHTS: hashlib.sha256(data).hexdigest()},
        weights_sha256=digest,
        fingerprint=fingerprint(digest, architecture, "cls", preprocess),
    )
    with pytest.raises(ArtifactInvalid, match=r"norm.weight is \(31,\) instead of \(32,\)"):
        _ = load_artifact(copy).model


def test_the_golden_file_holds_no_pickle(tiny_artifact: Artifact) -> None:
    with np.load(tiny_artifact.path / GOLDEN, allow_pickle=False) as golden:
        assert golden["global_token"].shape == golden["patch_mean"].shape


def test_importing_backbone_and_loading_an_artifact_needs_no_torch(tiny_artifact: Artifact) -> None:
    script = (
        "import sys; sys.modules['torch'] = None; sys.modules['torchvision'] = None\n"
        "import backbone; a = backbone.load_artifact(sys.argv[1])\n"
        "print(a.preprocess(open(sys.argv[2], 'rb').read()).shape)\n"
        "try: a.model\n"
        "except backbone.errors.NotInstalled as error: print(error)"
    )
    image = tiny_artifact.path.parent / "image.png"
    image.write_bytes(encoded(picture()))
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny_artifact.path), str(image)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0] == "(3, 32, 32)"
    assert "pip install" in done.stdout.splitlines()[1]
