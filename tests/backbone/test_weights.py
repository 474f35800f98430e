from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from backbone import Architecture, build, named
from backbone.errors import PathMissing, WeightsInvalid
from backbone.weights import read_hub_weights, read_torch_file


@pytest.fixture(scope="module")
def hub_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return build(named("vit_tiny_patch14", image_size=70)).state_dict()


def test_a_hub_file_tells_its_architecture_and_loads_to_the_same_output(
    hub_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(hub_state, tmp_path / "dinov2.pth")
    architecture, state = read_hub_weights(tmp_path / "dinov2.pth")
    assert architecture.params == {
        "image_size": 70,
        "patch_size": 14,
        "dim": 192,
        "depth": 12,
        "heads": 3,
        "mlp_ratio": 4.0,
        "pos_embed_resize": "hub_offset",
    }
    model = build(architecture)
    model.load_state_dict(state)
    assert all(torch.equal(t, hub_state[name]) for name, t in model.state_dict().items())


PARAMS = {"image_size": 70, "patch_size": 14, "dim": 192, "depth": 2, "heads": 3, "mlp_ratio": 4.0}


@pytest.mark.parametrize(
    ("changes", "resize"),
    [
        ({"registers": 4}, "exact_antialias"),
        ({"ffn": "swiglu"}, "hub_offset"),
        ({"registers": 4, "ffn": "swiglu"}, "exact_antialias"),
        ({"mlp_ratio": 2.0}, "hub_offset"),
    ],
)
def test_registers_and_gated_blocks_are_told_by_the_file(
    changes: dict[str, object], resize: str, tmp_path: Path
) -> None:
    """Models with registers were trained with the resize that has no offset, the others with the one that has."""
    torch.manual_seed(0)
    model = build(Architecture("vit", {**PARAMS, **changes, "pos_embed_resize": resize})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.save(model.state_dict(), tmp_path / "dinov2.pth")
    architecture, state = read_hub_weights(tmp_path / "dinov2.pth")
    assert architecture == model.architecture
    loaded = build(architecture).eval()
    loaded.load_state_dict(state)
    x = torch.randn(1, 3, 42, 56)
    with torch.inference_mode():
        assert torch.equal(loaded.tokens(x).global_token, model.tokens(x).global_token)


def test_half_precision_becomes_full_and_no_random_number_is_drawn(tmp_path: Path) -> None:
    torch.save(build(Architecture("vit", PARAMS)).half().state_dict(), tmp_path / "half.pth")
    before = torch.get_rng_state()
    _, state = read_hub_weights(tmp_path / "half.pth")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert torch.equal(torch.get_rng_state(), before)


def without(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in state.items() if key != name}


def test_other_layouts_are_refused_with_what_is_wrong(hub_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    block = without(hub_state, "blocks.0.mlp.fc1.weight")
    cases: dict[str, object] = {
        "lacks mask_token": without(hub_state, "mask_token"),
        "lacks cls_token": {**hub_state, "cls_token": torch.zeros(192)},
        "flat state dict": {"model": hub_state},
        "position table": {**hub_state, "pos_embed": torch.zeros(1, 25, 192)},
        "a width or": {**hub_state, "cls_token": torch.zeros(1, 1, 100)},
        "blocks that no": block,
        "blocks.7.attn.qkv.bias is missing": without(hub_state, "blocks.7.attn.qkv.bias"),
        "head.weight is unexpected": {**hub_state, "head.weight": torch.zeros(1)},
        r"norm.weight is \(191,\) instead of \(192,\)": {**hub_state, "norm.weight": torch.zeros(191)},
        r"register_tokens is \(4, 192\)": {**hub_state, "register_tokens": torch.zeros(4, 192)},
        "blocks.12.* is missing": {**hub_state, "blocks.999999999.ls1.gamma": torch.zeros(192)},
        "does not fit the vit_tiny_patch14_swiglu": {**block, "blocks.0.mlp.w12.weight": torch.zeros(100, 192)},
        "of no network": {**hub_state, "patch_embed.proj.weight": torch.zeros(192, 3, 14, 0)},
    }
    for reason, content in cases.items():
        torch.save(content, tmp_path / "file.pth")
        with pytest.raises(WeightsInvalid, match=reason):
            read_hub_weights(tmp_path / "file.pth")


class _Opened:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, ("opened", "w")


def test_a_file_that_would_run_code_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"x": _Opened()}, "zip.pth")
    Path("plain.pth").write_bytes(pickle.dumps(_Opened()))
    Path("text.pth").write_text("not weights at all")
    Path("empty.pth").write_bytes(b"")
    Path("stop.pth").write_bytes(b"\x80\x04.")
    Path("torn.pth").write_bytes(Path("zip.pth").read_bytes()[:-40])
    for name in ("zip.pth", "plain.pth", "text.pth", "empty.pth", "stop.pth", "torn.pth"):
        with pytest.raises(WeightsInvalid, match="not loaded"):
            read_torch_file(Path(name))
    assert not Path("opened").exists()


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(PathMissing):
        read_torch_file(tmp_path / "none.pth")
