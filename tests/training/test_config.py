from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from backbone.architecture import named
from backbone.errors import PathMissing
from training.config import ResolvedConfig, TrainingConfig, section
from training.errors import ConfigInvalid
from training.loading import check_batch
from training.method import MethodConfig
from training.recipes import resolve
from training.views import ViewConfig


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('lr = 1e-3\nbatch_size = 32\nglobal_scale = [0.3, 1]\nblur = "off"\n')
    config = TrainingConfig.load(file, ["batch_size=8", "max_time_s = 20", "local_scale=0.1,0.3"])
    assert (config.lr, config.batch_size, config.max_time_s) == (1e-3, 8, 20.0)
    assert (config.global_scale, config.local_scale, config.blur) == ((0.3, 1.0), (0.1, 0.3), "off")
    assert config.seed == TrainingConfig().seed


def test_u20_a_file_may_begin_with_the_mark_that_editors_of_windows_put_there(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(b"\xef\xbb\xbflr = 1e-3\r\n")
    assert TrainingConfig.load(file).lr == 1e-3
    file.write_bytes("lr = 1e-3".encode("utf-16"))
    with pytest.raises(ConfigInvalid, match="not TOML"):
        TrainingConfig.load(file)


@pytest.mark.parametrize(
    ("key", "near"), [("batchsize", "batch_size"), ("max_step", "max_steps"), ("momentun", "momentum")]
)
def test_an_unknown_key_is_refused_with_the_nearest_name(key: str, near: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"did you mean '{near}'"):
        TrainingConfig.load(None, [f"{key}=1"])


def test_a_key_like_no_other_is_refused_with_all_names() -> None:
    with pytest.raises(ConfigInvalid, match=r"the keys are .*weight_decay"):
        TrainingConfig.load(None, ["zzz=1"])


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("batch_size=many", "batch_size is a whole number"),
        ("batch_size=1.5", "batch_size is a whole number"),
        ("lr=nan", "lr is a number"),
        ("lr=inf", "lr is a number"),
        ("recipe=simclr", "recipe is one of dino, dinov2"),
        ("trainable_norm=perhaps", "trainable_norm is true or false"),
        ("mask_ratio=0.1", "mask_ratio is 2 numbers"),
        ("mask_ratio=0.5,0.1", "the first is not larger"),
        ("global_scale=0,1", "two shares"),
        ("batch_size=0", "of at least 1"),
        ("held_out=0.6", "from 0 to 0.5"),
        ("student_temperature=0", "above 0"),
        ("batch_size", "write key=value"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_what_would(override: str, complaint: str) -> None:
    with pytest.raises(ConfigInvalid, match=complaint):
        TrainingConfig.load(None, [override])


def test_a_value_of_another_type_in_the_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("batch_size = true\n")
    with pytest.raises(ConfigInvalid, match="batch_size"):
        TrainingConfig.load(file)
    file.write_text("batch_size = \n")
    with pytest.raises(ConfigInvalid, match="is not TOML"):
        TrainingConfig.load(file)
    with pytest.raises(PathMissing):
        TrainingConfig.load(tmp_path / "absent.toml")


def test_auto_and_none_hand_a_key_back() -> None:
    config = TrainingConfig.load(None, ["lr=auto", "max_steps=none", "devices=auto"])
    assert config.lr is None
    assert config.max_steps is None
    assert config.devices == "auto"


@pytest.mark.parametrize("recipe", ["dino", "dinov2"])
def test_a_resolved_configuration_reads_back_from_its_own_file(tmp_path: Path, recipe: str) -> None:
    config = TrainingConfig.load(None, [f"recipe={recipe}", "max_epochs=3"])
    resolved = resolve(config, 1000, named("vit_small_patch16")).config
    file = tmp_path / "config.toml"
    file.write_text(resolved.to_toml())
    assert ResolvedConfig.load(file) == resolved
    assert ResolvedConfig.from_values(resolved.to_dict()) == resolved
    assert TrainingConfig.load(file).to_dict() == resolved.to_dict()


def test_what_the_recipe_decides_has_a_value_in_resolved_keys() -> None:
    resolved = resolve(TrainingConfig(), 1000, named("vit_small_patch16"))
    assert set(resolved.reasons) == set(ResolvedConfig.__annotations__)
    for key in resolved.reasons:
        with pytest.raises(ConfigInvalid, match=f"^{key} have no value; resolve the recipe first"):
            ResolvedConfig(**{**vars(resolved.config), key: None})


@pytest.mark.parametrize("recipe", ["dino", "dinov2"])
@pytest.mark.parametrize("backbone", ["vit_tiny_patch16", "vit_large_patch14", "resnet18", "resnet50"])
@pytest.mark.parametrize("images", [2, 20_000, 20_001, 2_000_000])
def test_a_recipe_leaves_no_key_open_and_gives_each_a_reason(recipe: str, backbone: str, images: int) -> None:
    config = TrainingConfig.load(None, [f"recipe={recipe}", f"backbone={backbone}"])
    resolved = resolve(config, images, named(backbone))
    open_keys = {f.name for f in dataclasses.fields(TrainingConfig) if getattr(resolved.config, f.name) is None}
    assert open_keys == {"depth", "init", "max_steps", "max_epochs", "max_time_s", "wandb"}
    assert all(resolved.reasons.values())
    section(resolved.config, MethodConfig)
    section(resolved.config, ViewConfig)


def test_a_given_key_wins_over_the_recipe_and_needs_no_reason() -> None:
    resolved = resolve(TrainingConfig(recipe="dinov2", prototypes=77), 1000, named("vit_tiny_patch16"))
    assert resolved.config.prototypes == 77
    assert "prototypes" not in resolved.reasons


def test_a_recipe_scales_with_the_set_and_the_picture() -> None:
    small = resolve(TrainingConfig(image_size=32), 1000, named("vit_tiny_patch4", 32)).config
    large = resolve(TrainingConfig(), 2_000_000, named("vit_small_patch16")).config
    assert (small.prototypes, large.prototypes) == (1024, 65_536)
    assert (small.local_size, large.local_size) == (12, 96)
    assert (small.blur, large.blur) == ("off", "intended")


def test_dinov2_on_a_cnn_is_without_ibot() -> None:
    resolved = resolve(TrainingConfig(recipe="dinov2"), 1000, named("resnet18"))
    assert resolved.config.ibot_weight == 0.0
    assert resolved.config.koleo_weight == 0.1
    assert "no patch tokens" in resolved.reasons["ibot_weight"]


def test_a_local_size_that_cuts_a_patch_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="not a multiple of the patch"):
        resolve(TrainingConfig(local_size=90), 1000, named("vit_small_patch16"))


@pytest.mark.parametrize(("size", "fits"), [(31, False), (32, True)])
def test_a_local_size_below_what_a_network_takes_is_refused(size: int, fits: bool) -> None:
    config, architecture = TrainingConfig(local_size=size), named("convnext_tiny")
    if fits:
        assert resolve(config, 1000, architecture).config.local_size == size
    else:
        with pytest.raises(ConfigInvalid, match="convnext_tiny takes views from 32 pixels on"):
            resolve(config, 1000, architecture)


@pytest.mark.parametrize(
    ("keys", "processes", "fits"),
    [
        ({"batch_size": 1}, 1, False),
        ({"batch_size": 2}, 1, True),
        ({"batch_size": 2}, 2, False),
        ({"batch_size": 2, "koleo_over": "all"}, 2, True),
        ({"batch_size": 2, "koleo_weight": 0.0}, 2, True),
        ({"batch_size": 4, "accumulate": 2}, 2, False),
        ({"batch_size": 8, "accumulate": 2}, 2, True),
    ],
)
def test_a_batch_too_small_for_koleo_is_refused(keys: dict[str, object], processes: int, fits: bool) -> None:
    config = TrainingConfig.from_values({"koleo_weight": 0.1, **keys})
    if fits:
        check_batch(config, processes)
    else:
        with pytest.raises(ConfigInvalid, match="take a larger batch_size, or koleo_weight=0"):
            check_batch(config, processes)


def test_every_default_has_a_reason_beside_it() -> None:
    import inspect

    lines = inspect.getsource(TrainingConfig).split("@classmethod")[0].splitlines()
    fields = [line for line in lines if ": " in line and " = " in line and not line.strip().startswith(('"', "#"))]
    bare = [line.strip() for line in fields if "#" not in line and not line.rstrip().endswith("= None")]
    assert not bare
