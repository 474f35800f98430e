"""ResNets of torchvision behind the interface of a backbone: the global token is the average of the last feature map.

He et al. 2016 (arXiv:1512.03385). Parameters carry torchvision's names, without the classifier.
"""

from __future__ import annotations

from torch import Tensor
from torchvision.models import resnet18, resnet34, resnet50, resnet101, resnet152

from backbone.architecture import Architecture
from backbone.model import Backbone, Tokens

_BUILDERS = {18: resnet18, 34: resnet34, 50: resnet50, 101: resnet101, 152: resnet152}


class ResNet(Backbone):
    """A ResNet; patch tokens are the cells of the last feature map, which is 1/32 of the image a side, rounded up."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        if depth not in _BUILDERS:
            raise ValueError(f"depth is one of {', '.join(map(str, _BUILDERS))}, not {depth}")
        self.architecture = Architecture("resnet", {"depth": depth})
        self.dim, self.stride, self.supports_masks = self.architecture.dim, 32, False
        for name, child in _BUILDERS[depth](weights=None).named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, child)

    def tokens(self, x: Tensor, masks: Tensor | None = None) -> Tokens:
        """See `Backbone.tokens`; masks are refused, since a convolution has no token to replace."""
        if masks is not None:
            raise ValueError("a ResNet has no patch tokens that could be masked")
        z = x
        for child in self.children():
            z = child(z)
        patches = z.flatten(2).transpose(1, 2)  # [B, D, h, w] -> [B, N, D]
        return Tokens(global_token=patches.mean(dim=1), patch_tokens=patches)
