from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from backbone import Architecture, build, convnext, named
from backbone.architecture import POS_EMBED_RESIZES
from backbone.errors import ArchitectureInvalid
from backbone.model import Backbone
from backbone.onnx_export import at_image_size, onnx_bytes
from backbone.pooling import POOLINGS, pool
from backbone.vit import LAYER_SCALE_INIT, ViT, add_residual

TINY = {"image_size": 32, "patch_size": 8, "dim": 32, "depth": 2, "heads": 2}
RICH = {"registers": 3, "ffn": "swiglu"}
TINY_CONVNEXT = Architecture("convnext", {"depths": [1, 1, 2, 1], "dims": [8, 12, 16, 24]})


def tiny(drop_path: float = 0.0, **changes: object) -> ViT:
    torch.manual_seed(0)
    model = build(Architecture("vit", {**TINY, **changes}), drop_path, layer_scale=1.0)
    assert isinstance(model, ViT)
    return model.eval()


def alive(model: ViT) -> ViT:
    """Let every parameter matter, tokens and positions too, which start near zero."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


NAMES = [
    ("vit_tiny_patch16", 192, 196),
    ("vit_small_patch14", 384, 256),
    ("vit_base_patch16_reg4", 768, 196),
    ("vit_large_patch14_reg1_swiglu", 1024, 256),
    ("vit_giant_patch14_reg4", 1536, 256),
    ("resnet18", 512, 49),
    ("resnet34", 512, 49),
    ("resnet50", 2048, 49),
    ("resnet101", 2048, 49),
    ("resnet152", 2048, 49),
    ("convnext_tiny", 768, 49),
    ("convnext_small", 768, 49),
    ("convnext_base", 1024, 49),
    ("convnext_large", 1536, 49),
]


@pytest.mark.parametrize(("name", "dim", "tokens"), NAMES)
def test_every_backbone_gives_a_global_token_and_patch_tokens(name: str, dim: int, tokens: int) -> None:
    architecture = named(name)
    with torch.device("meta"):  # shapes without numbers: a giant costs nothing
        model = build(architecture).eval()
        out = model.tokens(torch.zeros(2, 3, 224, 224))
    assert out.global_token.shape == (2, dim)
    assert out.patch_tokens.shape == (2, tokens, dim)
    assert model.dim == architecture.dim == dim
    assert model.architecture == architecture == Architecture.from_dict(architecture.to_dict())
    assert str(architecture) == name


def test_an_architecture_without_a_published_size_is_readable_too() -> None:
    assert str(Architecture("vit", {**TINY, **RICH})) == "vit_32x2_patch8_reg3_swiglu"
    assert str(TINY_CONVNEXT) == "convnext_8x12x16x24"


def test_a_plain_vit_is_written_as_it_was_before_registers_and_swiglu() -> None:
    """Its written form is part of the fingerprint of every vector in every store."""
    written = {
        "name": "vit",
        "params": {
            "image_size": 224,
            "patch_size": 14,
            "dim": 384,
            "depth": 12,
            "heads": 6,
            "mlp_ratio": 4.0,
            "pos_embed_resize": "exact_antialias",
        },
    }
    assert named("vit_small_patch14").to_dict() == written
    with torch.device("meta"):
        assert build(Architecture.from_dict(written)).architecture.to_dict() == written
    more = named("vit_small_patch14_reg4_swiglu").to_dict()["params"]
    assert more == {**written["params"], "registers": 4, "ffn": "swiglu"}  # type: ignore[dict-item]


def test_the_state_dict_has_the_names_and_shapes_of_the_hub() -> None:
    state = {name: tuple(t.shape) for name, t in build(named("vit_small_patch14", image_size=518)).state_dict().items()}
    block = {
        "norm1.weight": (384,),
        "norm1.bias": (384,),
        "attn.qkv.weight": (1152, 384),
        "attn.qkv.bias": (1152,),
        "attn.proj.weight": (384, 384),
        "attn.proj.bias": (384,),
        "ls1.gamma": (384,),
        "norm2.weight": (384,),
        "norm2.bias": (384,),
        "mlp.fc1.weight": (1536, 384),
        "mlp.fc1.bias": (1536,),
        "mlp.fc2.weight": (384, 1536),
        "mlp.fc2.bias": (384,),
        "ls2.gamma": (384,),
    }
    outside = {
        "cls_token": (1, 1, 384),
        "pos_embed": (1, 1370, 384),
        "mask_token": (1, 384),
        "patch_embed.proj.weight": (384, 3, 14, 14),
        "patch_embed.proj.bias": (384,),
        "norm.weight": (384,),
        "norm.bias": (384,),
    }
    assert state == outside | {f"blocks.{i}.{name}": shape for i in range(12) for name, shape in block.items()}


def test_registers_and_gated_blocks_have_the_names_and_shapes_of_the_hub() -> None:
    with torch.device("meta"):
        state = build(named("vit_giant_patch14_reg4", image_size=518)).state_dict()
    shapes = {name: tuple(t.shape) for name, t in state.items()}
    assert shapes["register_tokens"] == (1, 4, 1536)
    assert shapes["pos_embed"] == (1, 1370, 1536)
    assert {name: shape for name, shape in shapes.items() if name.startswith("blocks.39.mlp.")} == {
        "blocks.39.mlp.w12.weight": (8192, 1536),
        "blocks.39.mlp.w12.bias": (8192,),
        "blocks.39.mlp.w3.weight": (1536, 4096),
        "blocks.39.mlp.w3.bias": (1536,),
    }


def test_a_plain_vit_computes_what_torchvision_s_does() -> None:
    torch.manual_seed(0)
    oracle = torchvision.models.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=128).eval()
    for parameter in oracle.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    oracle.heads = torch.nn.Identity()
    names = {"class_token": "cls_token", "encoder.pos_embedding": "pos_embed", "conv_proj": "patch_embed.proj"}
    names |= {"encoder.layers.encoder_layer_": "blocks.", "encoder.ln": "norm", "ln_1": "norm1", "ln_2": "norm2"}
    names |= {"self_attention.in_proj_": "attn.qkv.", "self_attention.out_proj": "attn.proj"}
    names |= {"mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2"}
    model = tiny()
    state = model.state_dict()  # LayerScale at 1 and the mask token are ours alone
    for name, tensor in oracle.state_dict().items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        assert name in state
        state[name] = tensor
    model.load_state_dict(state)
    with torch.inference_mode():
        x = torch.randn(3, 3, 32, 32)
        torch.testing.assert_close(model.tokens(x).global_token, oracle(x), atol=2e-5, rtol=1e-5)


def slow_vit(state: dict[str, Tensor], image: Tensor, heads: int, patch: int, masked: set[int]) -> Tensor:
    """One image [3, H, W] through a ViT with registers and SwiGLU, one token, one head, one position after the other: [T, D].

    Written from the papers' formulas over the state dict; the image has the size of the position table.
    """

    def norm(name: str, z: Tensor) -> Tensor:
        centred = z - z.mean(dim=-1, keepdim=True)
        return (
            centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * state[f"{name}.weight"]
            + state[f"{name}.bias"]
        )

    def linear(name: str, z: Tensor) -> Tensor:
        return z @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    kernel, bias = state["patch_embed.proj.weight"].flatten(1), state["patch_embed.proj.bias"]
    tokens, position = [state["cls_token"][0, 0] + state["pos_embed"][0, 0]], 1
    tokens += list(state["register_tokens"][0])
    for top in range(0, image.shape[1], patch):
        for left in range(0, image.shape[2], patch):
            content = kernel @ image[:, top : top + patch, left : left + patch].flatten() + bias
            content = state["mask_token"][0] if position - 1 in masked else content
            tokens.append(content + state["pos_embed"][0, position])
            position += 1
    z = torch.stack(tokens)
    for number in range(sum(name.endswith("ls1.gamma") for name in state)):
        block = f"blocks.{number}"
        q, k, v = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", z)).chunk(3, dim=1)
        seen = []
        for head in torch.arange(z.shape[1]).chunk(heads):
            scores = q[:, head] @ k[:, head].T / len(head) ** 0.5
            seen.append(torch.exp(scores) / torch.exp(scores).sum(dim=1, keepdim=True) @ v[:, head])
        z = z + state[f"{block}.ls1.gamma"] * linear(f"{block}.attn.proj", torch.cat(seen, dim=1))
        both = linear(f"{block}.mlp.w12", norm(f"{block}.norm2", z))
        gate, value = both[:, : both.shape[1] // 2], both[:, both.shape[1] // 2 :]
        gated = gate / (1 + torch.exp(-gate)) * value
        z = z + state[f"{block}.ls2.gamma"] * linear(f"{block}.mlp.w3", gated)
    return norm("norm", z)


@pytest.mark.parametrize("masked", [set[int](), {0, 5, 15}])
def test_registers_and_gated_blocks_compute_what_the_formulas_say(masked: set[int]) -> None:
    """With masks, too: they replace patches, and neither CLS nor registers."""
    model = alive(tiny(**RICH)).double()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    masks = torch.zeros(2, 16, dtype=torch.bool)
    masks[:, list(masked)] = True
    with torch.inference_mode():
        tokens = model.tokens(x, masks if masked else None)
        for row in range(2):
            expected = slow_vit(model.state_dict(), x[row], heads=2, patch=8, masked=masked)
            torch.testing.assert_close(tokens.global_token[row], expected[0], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(tokens.patch_tokens[row], expected[4:], rtol=1e-10, atol=1e-10)


def test_registers_start_as_good_as_silent_and_differ() -> None:
    registers = build(Architecture("vit", {**TINY, "registers": 4})).state_dict()["register_tokens"]
    assert 0 < registers.std() < 2e-6
    assert len(registers[0].unique(dim=0)) == 4


def test_a_gated_block_has_the_weights_of_the_block_it_stands_for() -> None:
    def weights(ffn: str) -> int:
        return sum(p.numel() for name, p in tiny(dim=192, ffn=ffn).named_parameters() if ".mlp." in name)

    assert weights("swiglu") == pytest.approx(weights("mlp"), rel=0.01)


@pytest.mark.parametrize("changes", [{}, RICH])
def test_a_masked_patch_cannot_be_seen(changes: dict[str, object]) -> None:
    model = tiny(**changes)
    torch.nn.init.normal_(model.mask_token)
    masks = torch.zeros(1, 16, dtype=torch.bool)
    masks[0, 5] = True  # row 1, column 1 of a grid of 4 x 4
    one = torch.randn(1, 3, 32, 32)
    other = one.clone()
    other[:, :, 8:16, 8:16] = 7.0
    with torch.inference_mode():
        assert torch.equal(model.tokens(one, masks).global_token, model.tokens(other, masks).global_token)
        assert not torch.allclose(model.tokens(one).global_token, model.tokens(other).global_token)


@pytest.mark.parametrize("mode", POS_EMBED_RESIZES)
@pytest.mark.parametrize("side", [8, 24, 32, 48])
def test_any_whole_number_of_patches_is_embedded(mode: str, side: int) -> None:
    with torch.inference_mode():
        out = tiny(pos_embed_resize=mode).tokens(torch.zeros(1, 3, side, 2 * side))
    assert out.patch_tokens.shape == (1, (side // 8) * (side // 4), 32)


def test_the_three_resizes_of_the_position_table_differ_as_documented() -> None:
    tables = {}
    for mode in POS_EMBED_RESIZES:
        tables[mode] = tiny(pos_embed_resize=mode).positions(2, 2)
        assert torch.equal(tiny(pos_embed_resize=mode).positions(4, 4), tiny(pos_embed_resize=mode).pos_embed)
    assert not torch.allclose(tables["exact"], tables["exact_antialias"])
    assert not torch.allclose(tables["exact"], tables["hub_offset"])


def interpolated(model: ViT, table: Tensor, rows: int, columns: int) -> Tensor:
    """The resize as torch's interpolation does it, in one piece."""
    grid, mode = model.config.grid, model.config.pos_embed_resize
    plane = table[:, 1:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    if mode == "hub_offset":
        scale = ((rows + 0.1) / grid, (columns + 0.1) / grid)
        plane = F.interpolate(plane, scale_factor=scale, mode="bicubic")
    else:
        plane = F.interpolate(plane, size=(rows, columns), mode="bicubic", antialias=mode == "exact_antialias")
    assert plane.shape[2:] == (rows, columns)
    return torch.cat([table[:, :1], plane.flatten(2).transpose(1, 2)], dim=1)


@pytest.mark.parametrize("mode", POS_EMBED_RESIZES)
@pytest.mark.parametrize(
    ("side", "grids"), [(8, [(3, 1)]), (32, [(2, 2), (3, 7), (1, 4)]), (296, [(16, 16), (7, 7), (5, 40)])]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_position_table_is_resized_as_by_interpolation_and_so_is_its_gradient(
    mode: str, side: int, grids: list[tuple[int, int]], dtype: torch.dtype
) -> None:
    model = alive(tiny(image_size=side, pos_embed_resize=mode)).to(dtype)
    table = model.pos_embed.detach().clone().requires_grad_(True)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-13
    for rows, columns in grids:
        found, expected = model.positions(rows, columns), interpolated(model, table, rows, columns)
        weights = torch.randn_like(expected)
        (gradient,) = torch.autograd.grad(found, model.pos_embed, weights)
        (expected_gradient,) = torch.autograd.grad(expected, table, weights)
        for one, other in ((found, expected), (gradient, expected_gradient)):
            assert one.dtype == dtype
            assert (one - other).abs().max() <= tolerance * other.abs().max()


class Operations(TorchDispatchMode):
    """Writes down which operations run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - torch says no more
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", POS_EMBED_RESIZES)
def test_the_gradient_of_positions_takes_no_interpolation_which_a_gpu_would_sum_in_any_order(mode: str) -> None:
    table = tiny(pos_embed_resize=mode).positions(3, 2)
    with Operations() as operations:
        table.sum().backward()
    assert any("mm" in name for name in operations.names)
    assert not any("upsample" in name for name in operations.names)


def test_positions_are_resized_in_full_precision_whatever_surrounds_them() -> None:
    model = alive(tiny())
    expected = model.positions(3, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.positions(3, 2), expected)
    half = model.bfloat16().positions(3, 2)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), expected, atol=0.02)


def test_a_resize_leaves_nothing_behind() -> None:
    model, x = alive(tiny(**RICH)), torch.randn(2, 3, 24, 40)
    names = list(model.state_dict())
    with torch.inference_mode():
        expected = model.tokens(x).global_token
    twin = copy.deepcopy(model)
    assert list(twin.state_dict()) == names
    assert torch.equal(twin.tokens(x).global_token, expected)
    twin.tokens(x).global_token.square().sum().backward()


def test_part_of_a_patch_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number of patches"):
        tiny().tokens(torch.zeros(1, 3, 33, 32))


@pytest.mark.parametrize("changes", [{}, RICH])
def test_a_copy_at_another_image_size_computes_the_same(changes: dict[str, object]) -> None:
    model, x = alive(tiny(**changes)), torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        assert torch.equal(at_image_size(model, 48).tokens(x).global_token, model.tokens(x).global_token)


def test_drop_path_skips_its_share_of_the_batch_exactly_and_keeps_the_expectation() -> None:
    z = torch.zeros(10, 1, 1)
    added = add_residual(z, torch.ones_like, drop=0.3)
    assert sorted(added.flatten().tolist()) == pytest.approx([0.0] * 3 + [10 / 7] * 7)
    assert added.mean() == pytest.approx(1.0)
    assert torch.equal(add_residual(z, torch.ones_like, drop=0.0), torch.ones(10, 1, 1))


def test_drop_path_is_for_training_only() -> None:
    model, x = tiny(drop_path=0.5), torch.randn(4, 3, 32, 32)
    assert torch.equal(model.tokens(x).global_token, model.tokens(x).global_token)
    model.train()
    assert not torch.equal(model.tokens(x).global_token, model.tokens(x).global_token)


def test_layer_scale_starts_small_unless_it_is_told_otherwise() -> None:
    assert tiny().state_dict()["blocks.1.ls2.gamma"].unique().tolist() == [1.0]
    model = build(Architecture("vit", TINY))
    assert model.state_dict()["blocks.0.ls1.gamma"].unique().tolist() == pytest.approx([LAYER_SCALE_INIT])


@pytest.mark.parametrize("changes", [{}, RICH])
def test_each_output_alone_is_what_it_is_among_all_tokens(changes: dict[str, object]) -> None:
    model, x = alive(tiny(**changes)).double(), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        tokens, outputs = model.tokens(x), model.outputs(x)
        torch.testing.assert_close(model.global_token(x), tokens.global_token)
        torch.testing.assert_close(outputs, (*tokens, model.attention(x)))


def test_the_global_token_alone_costs_a_block_of_one_token_less_keys_and_values() -> None:
    model, x = tiny(), torch.randn(1, 3, 32, 32)
    flop = {}
    for what in (model.tokens, model.global_token):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            what(x)
        flop[what] = counter.get_total_flops()
    width, others = 32, 16
    a_token = (
        2 * (1 + 4 + 4) * width**2 + 2 * 2 * (1 + others) * width
    )  # projection, feed-forward; scores and their sums
    assert flop[model.tokens] - flop[model.global_token] == others * a_token


def test_in_training_the_global_token_is_that_of_a_step_which_skips_blocks_at_random() -> None:
    model, x = tiny(drop_path=0.5).train(), torch.randn(4, 3, 32, 32)
    found = []
    for compute in (model.global_token, lambda x: model.tokens(x).global_token):
        torch.manual_seed(1)
        found.append(compute(x))
    assert torch.equal(*found)


@pytest.mark.parametrize("changes", [{}, RICH])
def test_the_reported_attention_is_the_share_of_each_patch(changes: dict[str, object]) -> None:
    model, x = alive(tiny(**changes)), torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        attention = model.attention(x)
    assert attention.shape == (2, 2, 16)
    assert (attention.sum(dim=-1) < 1).all()
    last, seen = model.get_submodule("blocks.1"), []
    last.get_submodule("norm1").register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.inference_mode():
        model.tokens(x)
        q, k, _ = last.get_submodule("attn.qkv")(seen[0]).chunk(3, dim=2)
        for head in range(2):
            columns = slice(16 * head, 16 * (head + 1))
            scores = (q[:, :1, columns] * k[:, :, columns]).sum(dim=2) / 4  # of CLS with all tokens
            expected = scores.softmax(dim=1)[:, 1 + model.config.registers :]
            torch.testing.assert_close(attention[:, head], expected)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_resnet_computes_what_torchvision_s_does(name: str) -> None:
    torch.manual_seed(0)
    oracle = getattr(torchvision.models, name)(weights=None).eval()
    model = build(named(name)).eval()
    model.load_state_dict({k: v for k, v in oracle.state_dict().items() if not k.startswith("fc.")})
    oracle.fc = torch.nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(model.tokens(x).global_token, oracle(x), atol=1e-6)
        assert model.tokens(x).patch_tokens.shape == (2, 4, model.dim)
    with pytest.raises(ValueError, match="masked"):
        model.tokens(x, torch.zeros(2, 4, dtype=torch.bool))


def test_a_convnext_computes_what_torchvision_s_does_before_its_last_layer() -> None:
    torch.manual_seed(0)
    oracle = torchvision.models.convnext_tiny(weights=None).eval()
    for name, parameter in oracle.named_parameters():
        if "layer_scale" in name or name.startswith("classifier.0"):
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    model = build(named("convnext_tiny")).eval()
    model.load_state_dict({k: v for k, v in oracle.state_dict().items() if not k.startswith("classifier.2.")})
    norm = oracle.classifier[0]
    x = torch.randn(2, 3, 64, 80)
    with torch.inference_mode():
        tokens, last_map = model.tokens(x), oracle.features(x)
        oracle.classifier[2] = torch.nn.Identity()
        assert torch.allclose(tokens.global_token, oracle(x), atol=1e-5)
        for cell in range(4):
            expected = F.layer_norm(last_map[:, :, cell // 2, cell % 2], (768,), norm.weight, norm.bias, 1e-6)
            assert torch.allclose(tokens.patch_tokens[:, cell], expected, atol=1e-5)
    with pytest.raises(ValueError, match="masked"):
        model.tokens(x, torch.zeros(2, 4, dtype=torch.bool))


def test_a_convnext_takes_drop_path_and_layer_scale() -> None:
    model, x = build(TINY_CONVNEXT, drop_path=0.4, layer_scale=0.5), torch.randn(8, 3, 32, 32)
    scales = {name: t.unique().tolist() for name, t in model.state_dict().items() if name.endswith("layer_scale")}
    assert len(scales) == 5
    assert all(values == [0.5] for values in scales.values())
    chances = [m.p for m in model.modules() if isinstance(m, torchvision.ops.StochasticDepth)]
    assert chances == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert not torch.equal(model.tokens(x).global_token, model.tokens(x).global_token)
    model.eval()
    assert torch.equal(model.tokens(x).global_token, model.tokens(x).global_token)
    plain = build(TINY_CONVNEXT).state_dict()["features.1.0.layer_scale"]
    assert plain.unique().tolist() == pytest.approx([convnext.LAYER_SCALE_INIT])


def test_a_resnet_refuses_drop_path_which_it_has_not() -> None:
    with pytest.raises(ArchitectureInvalid, match="drop_path=0"):
        build(named("resnet18"), drop_path=0.1)


@pytest.mark.parametrize("architecture", [Architecture("vit", TINY), named("resnet18", 8), TINY_CONVNEXT], ids=str)
def test_the_smallest_image_gives_one_patch_token(architecture: Architecture) -> None:
    side = architecture.smallest_image
    with torch.inference_mode():
        tokens = build(architecture).eval().tokens(torch.randn(2, 3, side, side))
    assert tokens.patch_tokens.shape == (2, 1, architecture.dim)
    assert tokens.global_token.isfinite().all()


def test_an_image_too_small_for_a_convnext_is_refused_in_a_sentence() -> None:
    assert named("convnext_tiny", 32).dim == 768
    with pytest.raises(ArchitectureInvalid, match="image_size=32 or more"):
        named("convnext_tiny", 31)
    with pytest.raises(ValueError, match="from 32 pixels a side"):
        build(TINY_CONVNEXT).tokens(torch.zeros(1, 3, 32, 31))


@pytest.mark.parametrize("architecture", [Architecture("vit", {**TINY, **RICH}), TINY_CONVNEXT], ids=str)
def test_another_runtime_computes_the_same_from_onnx(architecture: Architecture, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    torch.manual_seed(0)
    model = build(architecture, layer_scale=1.0).eval()
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(model, 64))
    network = openvino.Core().compile_model(tmp_path / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    x = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        expected = model.tokens(x)
    found = network(x.numpy())
    np.testing.assert_allclose(found["global_token"], expected.global_token.numpy(), atol=1e-4)
    np.testing.assert_allclose(found["patch_tokens"], expected.patch_tokens.numpy(), atol=1e-4)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_in_torch_and_in_numpy_is_the_same(pooling: str) -> None:
    model: Backbone = tiny()
    model.pooling = pooling
    with torch.inference_mode():
        tokens = model.tokens(x := torch.randn(3, 3, 32, 32))
        expected = model.embed(x).numpy()
    found = pool(tokens.global_token.numpy(), tokens.patch_tokens.numpy(), pooling)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["dinov2", "vit_small_patch0", "vit_tiny_patch16_reg0", "vit_tiny_patch16_swiglu_reg4", "resnet19", ""]
)
def test_an_unknown_name_is_answered_with_the_known_ones(name: str) -> None:
    with pytest.raises(ArchitectureInvalid, match=r"vit_\{tiny.*_patchP\[_regR\].*resnet18.*resnet152.*convnext_large"):
        named(name)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("vit_smal_patch14", "vit_small_patch14"),
        ("ViT_Base_Patch8", "vit_base_patch8"),
        ("vit_small_patch14_register4", "vit_small_patch14_reg4"),
        ("vit_tiny", "vit_tiny_patch16"),
        ("resnet-50", "resnet50"),
        ("convnext-small", "convnext_small"),
    ],
)
def test_a_name_that_is_almost_right_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ArchitectureInvalid, match=rf"did you mean {near}\?"):
        named(name)


def test_a_name_that_is_like_none_is_answered_without_a_guess() -> None:
    with pytest.raises(ArchitectureInvalid, match="'efficientnet'; the names are"):
        named("efficientnet")


def test_an_image_size_that_is_no_multiple_is_answered_with_the_nearest() -> None:
    assert named("vit_tiny_patch7", 28).params["image_size"] == 28
    with pytest.raises(ArchitectureInvalid, match="image_size=224"):
        named("vit_small_patch14", 225)


@pytest.mark.parametrize(
    ("family", "params"),
    [
        ("resnet", {"depth": 19}),
        ("resnet", {}),
        ("resnet", {"depth": 18, "width": 2}),
        ("vit", {**TINY, "heads": 5}),
        ("vit", {**TINY, "registers": -1}),
        ("vit", {**TINY, "registers": 1.5}),
        ("vit", {**TINY, "ffn": "gelu"}),
        ("vit", {**TINY, "pos_embed_resize": "nearest"}),
        ("convnext", {"depths": [1, 1, 1, 1]}),
        ("convnext", {"depths": [1, 1, 1], "dims": [8, 8, 8]}),
        ("convnext", {"depths": [1, 1, 0, 1], "dims": [8, 8, 8, 8]}),
        ("convnext", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, "8"]}),
        ("mlp", {}),
    ],
)
def test_parameters_that_do_not_fit_are_refused(family: str, params: dict[str, object]) -> None:
    with pytest.raises(ArchitectureInvalid):
        build(Architecture(family, params))
