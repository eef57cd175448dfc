"""Whether a layer's maps are `[B, C, H, W]` or, as Swin's and their kin's, `[B, H, W, C]`."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AvgPoolNd, _MaxPoolNd

# In PyTorch their channels are dim 1, in whatever network they stand.
_CHANNELS_FIRST = (nn.Conv2d, _BatchNorm, _MaxPoolNd, _AvgPoolNd, _AdaptiveAvgPoolNd)
_NETWORKS = ("torchvision.models.swin_transformer",)


def has_channels_last(model: nn.Module, layer: nn.Module, shape: tuple[int, ...]) -> bool:
    """Of a layer's output of that 4-D shape, for square images.

    Maps of square images are squares: which two axes are equal tells the third, the channels. That
    holds layer by layer, also where a network changes from one layout to the other. Where all three
    are equal, the layer's type decides, then what the network says of itself: timm's `output_fmt`,
    or that it is torchvision's Swin.
    """
    _, first, second, third = shape
    if first != second:
        return False
    if second != third:
        return True
    if isinstance(layer, _CHANNELS_FIRST):
        return False
    modules = {kind.__module__ for kind in type(model).__mro__}
    return getattr(model, "output_fmt", "NCHW") == "NHWC" or not modules.isdisjoint(_NETWORKS)
