"""Networks built from an architecture: the only place that loads torch for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backbone.architecture import Architecture
from backbone.errors import ArchitectureInvalid, NotInstalled

if TYPE_CHECKING:
    from backbone.model import Backbone


def build(architecture: Architecture, drop_path: float = 0.0, layer_scale: float | None = None) -> Backbone:
    """Build the network with fresh random weights.

    Args:
        architecture: what to build.
        drop_path: share of a batch's samples that skip each residual branch in training (ViT), or the chance of a sample to skip the
            last one, growing to it from none at the first (ConvNeXt); a ResNet takes none.
        layer_scale: what LayerScale starts from (ViT, ConvNeXt); None is the 1e-5 of DINOv2 and the 1e-6 of ConvNeXt, and 1.0 starts
            like DINO's ViT, which has none. A ResNet has no LayerScale.

    Raises:
        ArchitectureInvalid: an unknown family, parameters that do not fit it, or drop path for a ResNet.
        NotInstalled: torch (or torchvision, for a CNN) is not there.
    """
    try:
        return _built(architecture, drop_path, layer_scale)
    except ModuleNotFoundError as error:
        raise NotInstalled(f"{error.name} is needed to build a network; run: pip install 'dinodex[torch]'.") from error
    except (TypeError, ValueError) as error:
        raise ArchitectureInvalid(f"the parameters of {architecture.name!r} do not fit: {error}.") from error


def _built(architecture: Architecture, drop_path: float, layer_scale: float | None) -> Backbone:
    start: dict[str, Any] = {} if layer_scale is None else {"layer_scale": layer_scale}
    if architecture.name == "vit":
        from backbone.vit import ViT, ViTConfig

        return ViT(ViTConfig(**architecture.params), drop_path, **start)
    if architecture.name == "convnext":
        from backbone.convnext import ConvNeXt

        return ConvNeXt(**architecture.params, drop_path=drop_path, **start)
    if architecture.name == "resnet":
        from backbone.resnet import ResNet

        if drop_path:
            raise ArchitectureInvalid(f"drop_path is {drop_path}, but a ResNet has none here; set drop_path=0.")
        return ResNet(**architecture.params)
    raise ArchitectureInvalid(
        f"there is no architecture family {architecture.name!r}; there are 'vit', 'resnet' and 'convnext'."
    )
