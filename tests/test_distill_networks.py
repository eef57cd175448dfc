"""The WideResNets are those of the AMD paper's Tables 1 and 2, and take images of any size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from amd_fused import FeatureHooks, amd_loss
from amd_fused.distill.wrn import (
    FEATURE_LAYERS,
    PreActivationBlock,
    WideResNet,
    count_parameters,
    parse_wrn,
)


@pytest.mark.parametrize(
    ("depth", "width", "millions", "digits"),
    [
        (16, 1, 0.18, 2),
        (16, 3, 1.5, 1),
        (28, 1, 0.37, 2),
        # Beyond Table 2, from the WideResNet paper's Tables 3 and 4.
        (40, 2, 2.2, 1),
        (28, 10, 36.5, 1),
    ],
)
def test_parameter_counts_are_the_papers(depth, width, millions, digits):
    with torch.device("meta"):
        model = WideResNet(depth, width)
    assert round(count_parameters(model) / 1e6, digits) == millions


def test_parameter_count_is_the_one_worked_out_by_hand():
    # WRN10-1, 1 channel, 2 classes; a BN has 2 parameters a channel, no convolution a bias.
    conv1 = 9 * 16
    conv2 = 2 * 16 + 9 * 16 * 16 + 2 * 16 + 9 * 16 * 16  # same channels: no shortcut convolution
    conv3 = 2 * 16 + 9 * 16 * 32 + 2 * 32 + 9 * 32 * 32 + 16 * 32
    conv4 = 2 * 32 + 9 * 32 * 64 + 2 * 64 + 9 * 64 * 64 + 32 * 64
    rest = 2 * 64 + 64 * 2 + 2
    model = WideResNet(10, 1, num_classes=2, in_channels=1)
    assert count_parameters(model) == conv1 + conv2 + conv3 + conv4 + rest == 77042


@pytest.mark.parametrize("width", [1, 2])
def test_groups_have_the_shapes_of_table_1(width):
    model = WideResNet(16, width)
    with FeatureHooks(model, FEATURE_LAYERS) as hooks:
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
        shapes = [tuple(feature.shape[1:]) for feature in hooks.features]
    assert shapes == [(16 * width, 32, 32), (32 * width, 16, 16), (64 * width, 8, 8)]


@pytest.mark.parametrize("size", [(8, 8), (8, 21), (9, 13), (31, 10), (50, 64)])
def test_any_image_size_from_8x8_gives_logits_and_features_for_the_local_loss(size):
    images = torch.randn(2, 1, *size)
    student = WideResNet(10, 1, num_classes=7, in_channels=1)
    teacher = WideResNet(10, 2, num_classes=7, in_channels=1)
    with (
        FeatureHooks(student, FEATURE_LAYERS) as hooks_s,
        FeatureHooks(teacher, FEATURE_LAYERS) as hooks_t,
    ):
        assert student(images).shape == teacher(images).shape == (2, 7)
        # Reading a feature that a later layer overwrote would raise here.
        loss = amd_loss(hooks_s.features, hooks_t.features, local_weight=0.2, backend="reference")
    assert torch.isfinite(loss)
    assert loss > 0


@pytest.mark.parametrize(("channels", "stride"), [(4, 1), (6, 1), (4, 2)])
def test_block_is_the_preactivation_block_written_out(channels, stride):
    block = PreActivationBlock(4, channels, stride).double()
    for bn in (block.bn1, block.bn2):
        torch.nn.init.uniform_(bn.weight, 0.5, 2.0)
        torch.nn.init.normal_(bn.bias)
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    given = x.clone()

    def bn_relu(y, bn):
        mean, var = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
        y = (y - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return (y * bn.weight[:, None, None] + bn.bias[:, None, None]).clamp(min=0)

    activated = bn_relu(x, block.bn1)
    y = F.conv2d(activated, block.conv1.weight, stride=stride, padding=1)
    y = F.conv2d(bn_relu(y, block.bn2), block.conv2.weight, padding=1)
    if channels == 4 and stride == 1:
        assert block.shortcut is None
        expected = x + y
    else:
        expected = F.conv2d(activated, block.shortcut.weight, stride=stride) + y
    torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, given)


@pytest.mark.parametrize(
    ("text", "expected"), [("16-3", (16, 3)), ("WRN28-1", (28, 1)), (" wrn-40-2 ", (40, 2))]
)
def test_names_are_parsed(text, expected):
    assert parse_wrn(text) == expected


@pytest.mark.parametrize("text", ["", "16", "17-1", "4-1", "16-0", "16-1-1", "resnet", "16-1.5"])
def test_other_names_are_refused(text):
    message = "text must be depth-width with depth 6n \\+ 4 and width >= 1, such as 16-3, got"
    with pytest.raises(ValueError, match=message):
        parse_wrn(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 17, "width": 1}, "WideResNet: depth must be 6n \\+ 4 .* got 17"),
        ({"depth": 16, "width": 0}, "WideResNet: width must be at least 1, got 0"),
        ({"depth": 16, "width": 1, "num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"depth": 16, "width": 1, "in_channels": 0}, "in_channels must be at least 1, got 0"),
    ],
)
def test_impossible_networks_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        WideResNet(**settings)
