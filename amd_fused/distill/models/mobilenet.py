"""MobileNetV2 for small images, a teacher of the AMD paper's Table 7."""

from __future__ import annotations

from torch import Tensor, nn

# The last layers at each size of the map, by module path.
MAPS = ("stage1", "stage2", "stage3")

# Channels, blocks and expansion of the seven groups (MobileNetV2, Table 2), by the stage in which
# they lie here. The first block of stage2 and of stage3 halves the map.
_STAGES = (
    ((16, 1, 1), (24, 2, 6)),
    ((32, 3, 6),),
    ((64, 4, 6), (96, 3, 6), (160, 3, 6), (320, 1, 6)),
)


class InvertedResidual(nn.Module):
    """1x1 convolution to `expansion` times the channels, 3x3 depthwise, 1x1 back, each with BN.

    ReLU6 follows the first two; the last is linear. The input is added where shapes agree.

    Shapes: `[B, in_channels, H, W]` to `[B, out_channels, ceil(H / stride), ceil(W / stride)]`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = [] if expansion == 1 else _conv_bn_relu(in_channels, hidden, 1)
        self.layers = nn.Sequential(
            *expand,
            *_conv_bn_relu(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(x)
        return x + out if self.adds else out


class MobileNetV2(nn.Module):
    """MobileNetV2 for small images: `[B, channels, H, W]` to logits `[B, num_classes]`.

    All layers have `width` times the channels of the original, the last convolution of 1280 too:
    at 0.5 that makes 0.59 M parameters for 10 classes, Table 7's 0.6 M. RepDistiller's
    `mobilenet_half` leaves 1280 there and has 0.70 M.

    Only two groups halve the map, those of 32 and of 64 channels, where the original halves five
    times for its 224x224 images. So the maps of `stage1`, `stage2` and `stage3` are as large as
    those of a WideResNet's three groups (32, 16 and 8 for a 32x32 image), AMD pairs them as they
    are, and the last one is what the classifier sees. `pool` gives the embedding
    `[B, 1280 * width]`.

    Raises:
        ValueError: width makes a layer of no channels, or num_classes or channels < 1.

    Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018.
    """

    def __init__(self, width: float = 0.5, *, num_classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        if not 16 * width >= 1:
            raise ValueError(f"MobileNetV2: width must be at least 1/16, got {width}")
        for name, value in {"num_classes": num_classes, "channels": channels}.items():
            if value < 1:
                raise ValueError(f"MobileNetV2: {name} must be at least 1, got {value}")
        before = int(32 * width)
        self.stem = nn.Sequential(*_conv_bn_relu(channels, before, 3))
        stages = []
        for index, groups in enumerate(_STAGES):
            blocks: list[nn.Module] = []
            for wanted, count, expansion in groups:
                for _ in range(count):
                    stride = 2 if index > 0 and not blocks else 1
                    blocks.append(InvertedResidual(before, int(wanted * width), stride, expansion))
                    before = int(wanted * width)
            stages.append(nn.Sequential(*blocks))
        self.stage1, self.stage2, self.stage3 = stages
        last = int(1280 * width)
        self.head = nn.Sequential(*_conv_bn_relu(before, last, 1))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        self.fc = nn.Linear(last, num_classes)
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        out = self.stage3(self.stage2(self.stage1(self.stem(images))))
        return self.fc(self.pool(self.head(out)))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)


def _conv_bn_relu(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    ]
