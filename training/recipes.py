"""The recipes: what each key is when it is not given, and why. Keys that are given always win.

`dino`: Caron et al. 2021 (arXiv:2104.14294), ViT-S of table 8 and the public commands. `dinov2`: Oquab et al. 2024 (arXiv:2304.07193),
table 16, the short ImageNet configuration. Both are written for a million images and more; what depends on the number of images or on
the size of the pictures is scaled down here, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from backbone.architecture import Architecture
from backbone.machine import usable_cores
from training.config import ResolvedConfig, TrainingConfig
from training.errors import ConfigInvalid

SMALL_IMAGE = 64  # pixels; up to here a picture is an icon: a blur or a crop of 5 % leaves nothing of the object


FEW_IMAGES = 50_000  # up to here the papers' settings, made for a million images, are bent towards stability
# Measured on 10,000 images in batches of 64: with the running mean, the targets' entropy went to that of the uniform within 50 steps.
_FEW_DRIFT = "DINOv2's: with few images and small batches DINO's running mean lets the targets drift to uniform"
_NO_DROP = "a ResNet has no stochastic depth here"
NO_IBOT = "iBOT is off: a CNN has no patch tokens to mask"


class Choice(NamedTuple):
    """A value and the reason for it."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Resolved:
    """The keys of a run, and the reason of each value that the recipe decided."""

    config: ResolvedConfig
    reasons: dict[str, str]


def resolve(config: TrainingConfig, images: int, architecture: Architecture) -> Resolved:
    """Fill in what is not given.

    Args:
        config: what the user wrote.
        images: number of training images.
        architecture: of the backbone.
    """
    recipe = {"dino": _dino, "dinov2": _dinov2}[config.recipe]
    choices = recipe(config, images, architecture)
    smallest_global = (config.global_scale or choices["global_scale"].value)[0]
    choices.update(_sizes(config.image_size, architecture, smallest_global))
    decided = {key: choice for key, choice in choices.items() if getattr(config, key) is None}
    values = {key: choice.value for key, choice in decided.items()}
    resolved = ResolvedConfig(**{**vars(config), **values})
    if resolved.local_size < architecture.smallest_image:
        least = architecture.smallest_image
        raise ConfigInvalid(
            f"local_size is {resolved.local_size}, but {architecture} takes views from {least} pixels on."
        )
    if architecture.name == "vit":
        patch = architecture.params["patch_size"]
        if resolved.local_size % patch:
            raise ConfigInvalid(f"local_size is {resolved.local_size}, not a multiple of the patch of {patch} pixels.")
    return Resolved(resolved, {key: choice.reason for key, choice in decided.items()})


def _dino(config: TrainingConfig, images: int, architecture: Architecture) -> dict[str, Choice]:
    vit = architecture.name == "vit"
    few = images <= FEW_IMAGES
    return {
        **_by_images(images),
        "lr": Choice(5e-4, "DINO's, for a batch of 256"),
        "weight_decay": Choice(0.04, "DINO's start for ViTs; AdamW needs no less for CNNs"),
        "weight_decay_end": Choice(0.4, "DINO's end") if vit else Choice(0.04, "a CNN is regularised by its form"),
        "layer_decay": Choice(1.0, "DINO has none"),
        "patch_embed_lr": Choice(1.0, "DINO has none"),
        "clip_by": Choice("parameter", "as DINO's public code does"),
        "freeze_backbone": _freeze(config),
        "trainable_norm": Choice(False, "prototypes of length one: DINO's choice for stability"),
        "centring": Choice("sinkhorn", _FEW_DRIFT) if few else Choice("softmax", "DINO's"),
        "drop_path": Choice(0.0, _NO_DROP) if architecture.name == "resnet" else Choice(0.1, "DINO's"),
        "layer_scale": _convolutional_scale(architecture)
        or Choice(1.0, "DINO has none: blocks speak up from the first step, which short runs need"),
        "ibot_weight": Choice(0.0, "DINO has none"),
        "koleo_weight": Choice(0.1, "DINOv2's: spreads the vectors, which few images need most")
        if few
        else Choice(0.0, "DINO has none"),
        "global_scale": Choice((0.4, 1.0), "DINO's for ViTs") if vit else Choice((0.14, 1.0), "DINO's for ResNets"),
    }


def _dinov2(config: TrainingConfig, images: int, architecture: Architecture) -> dict[str, Choice]:
    vit = architecture.name == "vit"
    small = not vit or architecture.dim <= 384
    return {
        **_by_images(images),
        "lr": Choice(2e-3, "DINOv2's 4e-3 for a batch of 1,024"),
        "weight_decay": Choice(0.04, "DINOv2's start"),
        "weight_decay_end": Choice(0.4, "DINOv2's end") if vit else Choice(0.04, "a CNN is regularised by its form"),
        "layer_decay": Choice(0.9, "DINOv2's") if vit else Choice(1.0, "a CNN has no blocks to grade"),
        "patch_embed_lr": Choice(0.2, "DINOv2's: a quiet patch projection is a stable one")
        if vit
        else Choice(1.0, "a CNN has no patch projection"),
        "clip_by": Choice("module", "DINOv2's: backbone and heads apart"),
        "freeze_backbone": _freeze(config),
        "trainable_norm": Choice(True, "DINOv2's"),
        "centring": Choice("sinkhorn", "DINOv2's: needs no running mean"),
        "drop_path": Choice(0.0, _NO_DROP)
        if architecture.name == "resnet"
        else Choice(0.1 if small else 0.3, "0.3 in the paper, 0.1 for small networks"),
        "layer_scale": _convolutional_scale(architecture)
        or Choice(1e-5, "DINOv2's start: each block is nearly silent, and deep networks stay stable"),
        "ibot_weight": Choice(1.0, "DINOv2's") if vit else Choice(0.0, NO_IBOT),
        "koleo_weight": Choice(0.1, "DINOv2's"),
        "global_scale": Choice((0.32, 1.0), "DINOv2's"),
    }


def _convolutional_scale(architecture: Architecture) -> Choice | None:
    """A CNN's own start of LayerScale; None for a ViT, which the recipe decides."""
    own = {"resnet": Choice(1.0, "a ResNet has none"), "convnext": Choice(1e-6, "ConvNeXt's")}
    return own.get(architecture.name)


def _freeze(config: TrainingConfig) -> Choice:
    if config.init is None:
        return Choice(0.0, "nothing has been learnt yet that new heads could spoil")
    return Choice(1.0, "new heads must not shake a backbone that knows something, so they learn alone first")


# up to so many images: (prototypes, momentum at the start). The published 65,536 and 0.996 are for a million images: with few images
# most of those prototypes would never be used, and a teacher that slow would hardly have moved when the run ends.
_SCALE = (
    (20_000, 1024, 0.99),
    (50_000, 2048, 0.992),
    (100_000, 4096, 0.994),
    (200_000, 16_384, 0.996),
    (500_000, 32_768, 0.996),
)


def _by_images(images: int) -> dict[str, Choice]:
    limit, prototypes, momentum = next((row for row in _SCALE if images <= row[0]), (None, 65_536, 0.996))
    reason = f"for up to {limit:,} images" if limit else "the published value, for large sets"
    few = images <= FEW_IMAGES
    sharp = "sharper than the papers' 0.04 to 0.07: on few images a soft teacher drifts to uniform"
    return {
        "prototypes": Choice(prototypes, reason),
        "momentum": Choice(momentum, reason),
        "teacher_temperature_start": Choice(0.02, sharp) if few else Choice(0.04, "both papers'"),
        "teacher_temperature": Choice(0.02, sharp) if few else Choice(0.07, "both papers' after the warm-up"),
    }


def _sizes(image_size: int, architecture: Architecture, smallest_global: float) -> dict[str, Choice]:
    """Choose what depends on the size of the pictures and of the network."""
    vit = architecture.name == "vit"
    step = architecture.params["patch_size"] if vit else 2
    local_size = max(max(round(image_size * 96 / 224 / step), 1) * step, architecture.smallest_image)
    small = image_size <= SMALL_IMAGE
    return {
        "local_size": Choice(local_size, "96/224 of image_size, in whole patches"),
        "local_views": Choice(4, "small pictures have fewer distinct parts") if small else Choice(8, "DINOv2's"),
        "local_scale": Choice((0.2, 0.5), "5 % of a small picture shows nothing")
        if small
        else Choice(
            (min(0.05, smallest_global), smallest_global), "from 5 % to where the global views begin, as in both papers"
        ),
        "blur": Choice("off", "a blur of 2 pixels removes what a small picture shows")
        if small
        else Choice("intended", "the papers' chances"),
        "head_hidden": Choice(
            min(2048, 4 * architecture.dim), "4 x the width of the backbone, up to the published 2,048"
        ),
        "workers": Choice(*_workers()),
    }


def _workers() -> tuple[int, str]:
    cores = usable_cores()
    if cores <= 2:
        return 0, "two cores are busy with the training itself"
    return min(cores - 1, 12), "all cores but one, up to the 12 that ten views of an image keep busy"
