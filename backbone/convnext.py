"""ConvNeXt of torchvision behind the interface of a backbone: tokens are cells of the last feature map, the global one their average.

Liu et al. 2022 (arXiv:2201.03545). Parameters carry torchvision's names without the classifier's linear layer (`classifier.2`):
`features.0` is the stem, `features.1, 3, 5, 7` are the stages, `features.2, 4, 6` halve the map between them, and `classifier.0` is the
LayerNorm that torchvision applies to the average. Here it normalises the average and the cells alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt

from backbone.architecture import CONVNEXT_STRIDE, Architecture
from backbone.model import Backbone, Tokens

LAYER_SCALE_INIT = 1e-6  # the paper's and torchvision's


class ConvNeXt(Backbone):
    """Four stages of depthwise convolutions; patch tokens are the cells of the last feature map, 1/32 of the image a side."""

    def __init__(
        self,
        depths: Sequence[int],
        dims: Sequence[int],
        drop_path: float = 0.0,
        layer_scale: float = LAYER_SCALE_INIT,
    ) -> None:
        super().__init__()
        if len(depths) != 4 or len(dims) != 4 or min(*depths, *dims) < 1:
            raise ValueError(f"depths and dims are four numbers each, of at least 1, not {depths} and {dims}")
        self.architecture = Architecture("convnext", {"depths": list(depths), "dims": list(dims)})
        self.dim, self.stride, self.supports_masks = dims[-1], CONVNEXT_STRIDE, False
        stages = [CNBlockConfig(*stage) for stage in zip(dims, [*dims[1:], None], depths, strict=True)]
        network = TorchvisionConvNeXt(stages, stochastic_depth_prob=drop_path, layer_scale=layer_scale, num_classes=1)
        self.features = network.features
        self.classifier = network.classifier[:1]  # its LayerNorm

    def tokens(self, x: Tensor, masks: Tensor | None = None) -> Tokens:
        """See `Backbone.tokens`; masks are refused, since a convolution has no token to replace.

        Raises:
            ValueError: masks, or an image smaller than one cell of the last feature map.
        """
        if masks is not None:
            raise ValueError("a ConvNeXt has no patch tokens that could be masked")
        if min(x.shape[-2:]) < CONVNEXT_STRIDE:
            raise ValueError(f"a ConvNeXt takes images from {CONVNEXT_STRIDE} pixels a side, not {tuple(x.shape[-2:])}")
        z = self.features(x)  # [B, D, h, w]
        average = self.classifier(z.mean(dim=(2, 3), keepdim=True))
        return Tokens(global_token=average.flatten(1), patch_tokens=self.classifier(z).flatten(2).transpose(1, 2))
