"""WideResNet WRN-d-k, the teacher and student networks of the AMD paper (Table 1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

# The outputs of the three groups of blocks, by module path: what AMD distills.
MAPS = ("conv2", "conv3", "conv4")


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each after BN-ReLU, beside a shortcut.

    Shapes: `[B, in_channels, H, W]` to `[B, out_channels, ceil(H / stride), ceil(W / stride)]`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if in_channels != out_channels or stride != 1:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # In place on BN's output only: x itself may be a feature that someone keeps.
        activated = F.relu(self.bn1(x), inplace=True)
        # A projection starts from the activated input, an identity from the raw one (WRN, Fig. 1).
        residual = x if self.shortcut is None else self.shortcut(activated)
        out = self.conv1(activated)
        out = self.conv2(F.relu(self.bn2(out), inplace=True))
        return residual + out


class WideResNet(nn.Module):
    """WRN-`depth`-`width`: images `[B, channels, H, W]` to logits `[B, num_classes]`.

    `conv1` has 16 channels, the groups `conv2`, `conv3` and `conv4` have 16, 32 and 64 times
    `width`, each `(depth - 4) / 6` blocks deep. The first blocks of `conv3` and `conv4` halve
    the map, and `pool` averages whatever is left to the embedding `[B, 64 * width]`, so any image
    size works; from 8x8 on, every group's map is at least 2x2, as the local part of the AMD loss
    needs.

    Raises:
        ValueError: depth is not 6n + 4 with n >= 1, or width, num_classes or channels < 1.

    Source: AMD paper, Table 1; Zagoruyko and Komodakis, "Wide Residual Networks", 2016.
    """

    def __init__(self, depth: int, width: int, *, num_classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        if not is_depth(depth):
            raise ValueError(
                f"WideResNet: depth must be 6n + 4 with n >= 1 (10, 16, 28, 40, ...), got {depth}"
            )
        sizes = {"width": width, "num_classes": num_classes, "channels": channels}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"WideResNet: {name} must be at least 1, got {value}")
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.conv2 = _group(blocks, 16, 16 * width, stride=1)
        self.conv3 = _group(blocks, 16 * width, 32 * width, stride=2)
        self.conv4 = _group(blocks, 32 * width, 64 * width, stride=2)
        self.bn = nn.BatchNorm2d(64 * width)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        self.fc = nn.Linear(64 * width, num_classes)
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        out = self.conv4(self.conv3(self.conv2(self.conv1(images))))
        return self.fc(self.pool(F.relu(self.bn(out), inplace=True)))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)


def is_depth(depth: int) -> bool:
    """Whether there is a WideResNet of that depth: 6n + 4 with n >= 1."""
    return depth >= 10 and depth % 6 == 4


def _group(blocks: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(in_channels, out_channels, stride)
    rest = (PreActivationBlock(out_channels, out_channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
