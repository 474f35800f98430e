from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision

from backbone import Architecture, build, named
from backbone.errors import ArchitectureInvalid
from backbone.model import Backbone
from backbone.onnx_export import at_image_size
from backbone.pooling import POOLINGS, pool
from backbone.vit import LAYER_SCALE_INIT, ViT, add_residual

TINY = {"image_size": 32, "patch_size": 8, "dim": 32, "depth": 2, "heads": 2}


def tiny(drop_path: float = 0.0, **changes: object) -> ViT:
    torch.manual_seed(0)
    model = build(Architecture("vit", {**TINY, **changes}), drop_path, layer_scale=1.0)
    assert isinstance(model, ViT)
    return model.eval()


@pytest.mark.parametrize(("name", "dim", "tokens"), [("vit_small_patch14", 384, 256), ("resnet18", 512, 49)])
def test_every_backbone_gives_a_global_token_and_patch_tokens(name: str, dim: int, tokens: int) -> None:
    model = build(named(name)).eval()
    with torch.inference_mode():
        out = model.tokens(torch.zeros(2, 3, 224, 224))
    assert out.global_token.shape == (2, dim)
    assert out.patch_tokens.shape == (2, tokens, dim)
    assert model.dim == dim


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


def test_a_masked_patch_cannot_be_seen() -> None:
    model = tiny()
    torch.nn.init.normal_(model.mask_token)
    masks = torch.zeros(1, 16, dtype=torch.bool)
    masks[0, 5] = True  # row 1, column 1 of a grid of 4 x 4
    one = torch.randn(1, 3, 32, 32)
    other = one.clone()
    other[:, :, 8:16, 8:16] = 7.0
    with torch.inference_mode():
        assert torch.equal(model.tokens(one, masks).global_token, model.tokens(other, masks).global_token)
        assert not torch.allclose(model.tokens(one).global_token, model.tokens(other).global_token)


@pytest.mark.parametrize("mode", ["exact", "exact_antialias", "hub_offset"])
@pytest.mark.parametrize("side", [8, 24, 32, 48])
def test_any_whole_number_of_patches_is_embedded(mode: str, side: int) -> None:
    with torch.inference_mode():
        out = tiny(pos_embed_resize=mode).tokens(torch.zeros(1, 3, side, 2 * side))
    assert out.patch_tokens.shape == (1, (side // 8) * (side // 4), 32)


def test_the_three_resizes_of_the_position_table_differ_as_documented() -> None:
    tables = {}
    for mode in ("exact", "exact_antialias", "hub_offset"):
        tables[mode] = tiny(pos_embed_resize=mode).positions(2, 2)
        assert torch.equal(tiny(pos_embed_resize=mode).positions(4, 4), tiny(pos_embed_resize=mode).pos_embed)
    assert not torch.allclose(tables["exact"], tables["exact_antialias"])
    assert not torch.allclose(tables["exact"], tables["hub_offset"])


def test_part_of_a_patch_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number of patches"):
        tiny().tokens(torch.zeros(1, 3, 33, 32))


def test_a_copy_at_another_image_size_computes_the_same() -> None:
    model, x = tiny(), torch.randn(2, 3, 48, 48)
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


def test_the_reported_attention_is_the_share_of_each_patch() -> None:
    model, x = tiny(), torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        tokens, attention = model.tokens_and_attention(x)
        assert torch.equal(tokens.global_token, model.tokens(x).global_token)
    assert attention.shape == (2, 2, 16)
    assert (attention.sum(dim=-1) < 1).all()


def test_a_resnet_computes_what_torchvision_s_does() -> None:
    torch.manual_seed(0)
    oracle = torchvision.models.resnet18(weights=None).eval()
    model = build(named("resnet18")).eval()
    model.load_state_dict({k: v for k, v in oracle.state_dict().items() if not k.startswith("fc.")})
    oracle.fc = torch.nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(model.tokens(x).global_token, oracle(x), atol=1e-6)
        assert model.tokens(x).patch_tokens.shape == (2, 4, 512)
    with pytest.raises(ValueError, match="masked"):
        model.tokens(x, torch.zeros(2, 4, dtype=torch.bool))


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


@pytest.mark.parametrize("name", ["vit_huge_patch14", "vit_small", "resnet19", "vit_tiny_patch0", ""])
def test_an_unknown_name_is_answered_with_the_known_ones(name: str) -> None:
    with pytest.raises(ArchitectureInvalid, match="resnet18"):
        named(name)


def test_an_image_size_that_is_no_multiple_is_answered_with_the_nearest() -> None:
    assert named("vit_tiny_patch7", 28).params["image_size"] == 28
    with pytest.raises(ArchitectureInvalid, match="image_size=224"):
        named("vit_small_patch14", 225)


@pytest.mark.parametrize("params", [{"depth": 19}, {}, {"depth": 18, "width": 2}])
def test_parameters_that_do_not_fit_are_refused(params: dict[str, int]) -> None:
    with pytest.raises(ArchitectureInvalid):
        build(Architecture("resnet", params))
    with pytest.raises(ArchitectureInvalid):
        build(Architecture("vit", {**TINY, "heads": 5}))
    with pytest.raises(ArchitectureInvalid):
        build(Architecture("mlp", params))
