from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from backbone import build, named
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


def test_other_layouts_are_refused_with_what_is_wrong(hub_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    cases: dict[str, object] = {
        "registers": {**hub_state, "register_tokens": torch.zeros(1, 4, 192)},
        "lacks": {name: t for name, t in hub_state.items() if name != "mask_token"},
        "flat state dict": {"model": hub_state},
        "position table": {**hub_state, "pos_embed": torch.zeros(1, 25, 192)},
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
