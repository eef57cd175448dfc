"""Teachers and students of the training benchmark, and the layers whose outputs are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from amd_fused.distill.models.wrn import WideResNet


@dataclass(frozen=True)
class Setting:
    """One distillation as a user would run it.

    Args:
        name: for the table and the result file.
        networks: makes student and teacher; raises ImportError where a package is missing.
        layers: module paths of the features, the same in both.
        image: channels, height and width.
        classes: of the labels.
        batch: images a step.
        mixed_precision: under autocast (float16 with a GradScaler on a GPU, bfloat16 on a CPU).
        channels_last: memory format of networks and images.
    """

    name: str
    networks: Callable[[], tuple[nn.Module, nn.Module]]
    layers: tuple[str, ...]
    image: tuple[int, int, int]
    classes: int
    batch: int
    mixed_precision: bool
    channels_last: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


def wide_resnets(depth: int, width_t: int, width_s: int) -> tuple[nn.Module, nn.Module]:
    """Student and teacher of one depth; 10 classes."""
    return WideResNet(depth, width_s), WideResNet(depth, width_t)


def imagenet_resnets() -> tuple[nn.Module, nn.Module]:
    """ResNet18 and ResNet34, their weights at random."""
    from torchvision.models import resnet18, resnet34

    return resnet18(weights=None), resnet34(weights=None)


_WRN = partial(wide_resnets, 16, 3, 1), ("conv2", "conv3", "conv4"), (3, 32, 32), 10, 128
_RESNET_LAYERS = ("layer1", "layer2", "layer3", "layer4")
_TINY = partial(wide_resnets, 10, 2, 1), _WRN[1], (3, 8, 8), 10, 1
_ALL = (
    Setting("wrn", *_WRN, mixed_precision=False),
    Setting("wrn-amp", *_WRN, mixed_precision=True),
    Setting("resnet-amp", imagenet_resnets, _RESNET_LAYERS, (3, 224, 224), 1000, 256, True, True),
    Setting("tiny-amp", *_TINY, mixed_precision=True, channels_last=True),
)
SETTINGS = {setting.name: setting for setting in _ALL}
