"""ResNet-d for small images: ResNet44 teaches and ResNet20 learns in the AMD paper."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

# Of He et al.'s form 6n + 2. Not 26, 50 or 152: by these names others mean networks for ImageNet.
DEPTHS = (8, 14, 20, 32, 44, 56, 110)
# The outputs of the three groups of blocks, by module path.
MAPS = ("layer1", "layer2", "layer3")


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each followed by BN, beside a shortcut; ReLU after their sum.

    Shapes: `[B, in_channels, H, W]` to `[B, out_channels, ceil(H / stride), ceil(W / stride)]`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Sequential | None = None
        if in_channels != out_channels or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.shortcut is None else self.shortcut(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(residual + self.bn2(self.conv2(out)), inplace=True)


class CifarResNet(nn.Module):
    """ResNet-`depth` for small images: `[B, channels, H, W]` to logits `[B, num_classes]`.

    Three groups of `(depth - 2) / 6` blocks with 16, 32 and 64 channels, of which the second and
    third halve the map; `pool` averages the last one to the embedding `[B, 64]`.

    A shortcut that changes shape is a 1x1 convolution with BN (He et al.'s option B). Their own
    networks for CIFAR-10 pad with zeros (option A), which has 0.66 M parameters for ResNet44 too;
    but Table 2's ratio of WRN16-1 to ResNet44, 26.47 %, is that of projections: 175066 / 661338,
    where zeros would give 26.58 %.

    Raises:
        ValueError: depth is not one of `DEPTHS`, or num_classes or channels < 1.

    Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2016, section 4.2.
    """

    def __init__(self, depth: int, *, num_classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"CifarResNet: depth must be one of {DEPTHS}, got {depth}")
        for name, value in {"num_classes": num_classes, "channels": channels}.items():
            if value < 1:
                raise ValueError(f"CifarResNet: {name} must be at least 1, got {value}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _group(blocks, 16, 16, stride=1)
        self.layer2 = _group(blocks, 16, 32, stride=2)
        self.layer3 = _group(blocks, 32, 64, stride=2)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        self.fc = nn.Linear(64, num_classes)
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(images)), inplace=True)
        return self.fc(self.pool(self.layer3(self.layer2(self.layer1(out)))))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)


def _group(blocks: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    first = ResidualBlock(in_channels, out_channels, stride)
    rest = (ResidualBlock(out_channels, out_channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
