"""Blocks are those that were published; networks take images of any size and channels."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F

from amd_fused.distill.errors import UsageError
from amd_fused.distill.models import build, canonical, library
from amd_fused.distill.models.mobilenet import InvertedResidual, MobileNetV2
from amd_fused.distill.models.resnet import CifarResNet, ResidualBlock
from amd_fused.distill.models.wrn import PreActivationBlock, WideResNet


def bn(x, module):
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
    return x * module.weight[:, None, None] + module.bias[:, None, None]


def randomised(block):
    block.double()
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 2.0)
            torch.nn.init.normal_(module.bias)
    return block


@pytest.mark.parametrize(("channels", "stride"), [(4, 1), (6, 1), (4, 2)])
def test_preactivation_block_is_the_one_written_out(channels, stride):
    block = randomised(PreActivationBlock(4, channels, stride))
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    given = x.clone()
    activated = bn(x, block.bn1).clamp(min=0)
    y = F.conv2d(activated, block.conv1.weight, stride=stride, padding=1)
    y = F.conv2d(bn(y, block.bn2).clamp(min=0), block.conv2.weight, padding=1)
    if channels == 4 and stride == 1:
        assert block.shortcut is None
        expected = x + y
    else:
        expected = F.conv2d(activated, block.shortcut.weight, stride=stride) + y
    torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, given)


@pytest.mark.parametrize(("channels", "stride"), [(4, 1), (8, 2)])
def test_residual_block_is_the_one_written_out(channels, stride):
    block = randomised(ResidualBlock(4, channels, stride))
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    given = x.clone()
    y = bn(F.conv2d(x, block.conv1.weight, stride=stride, padding=1), block.bn1).clamp(min=0)
    y = bn(F.conv2d(y, block.conv2.weight, padding=1), block.bn2)
    shortcut = x
    if stride == 2:
        shortcut = bn(F.conv2d(x, block.shortcut[0].weight, stride=2), block.shortcut[1])
    torch.testing.assert_close(block(x), (shortcut + y).clamp(min=0))
    assert torch.equal(x, given)


@pytest.mark.parametrize(
    ("channels", "stride", "expansion"), [(4, 1, 6), (6, 1, 6), (4, 2, 6), (4, 1, 1)]
)
def test_inverted_residual_is_the_one_written_out(channels, stride, expansion):
    block = randomised(InvertedResidual(4, channels, stride, expansion))
    x = 5 * torch.randn(3, 4, 9, 8, dtype=torch.float64)
    given = x.clone()
    layers = list(block.layers)
    y = x
    if expansion > 1:
        y = bn(F.conv2d(y, layers[0].weight), layers[1]).clamp(0, 6)
        layers = layers[3:]
    y = F.conv2d(y, layers[0].weight, stride=stride, padding=1, groups=4 * expansion)
    y = bn(F.conv2d(bn(y, layers[1]).clamp(0, 6), layers[3].weight), layers[4])
    torch.testing.assert_close(block(x), x + y if (channels, stride) == (4, 1) else y)
    assert torch.equal(x, given)


@pytest.mark.parametrize("name", ["WRN10-1", "ResNet8", "MobileNetV2", "ResNet18"])
@pytest.mark.parametrize("size", [8, 33, 64])
def test_any_image_size_from_8_and_any_channels_give_logits(name, size):
    for channels in (1, 4):
        model = build(name, num_classes=7, channels=channels, image_size=size, seed=0)
        assert model.training
        assert model(torch.randn(2, channels, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", ["WRN10-1", "ResNet8", "MobileNetV2", "ResNet18"])
def test_weights_come_from_the_seed_alone_and_the_global_generator_is_left_alone(name):
    def weights(seed):
        model = build(name, num_classes=3, channels=1, image_size=8, seed=seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = weights(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(weights(5), first)
    assert not torch.equal(weights(6), first)


def test_replaced_first_convolution_is_as_wide_as_the_networks_own():
    def first(channels):
        model = build("ResNet18", num_classes=2, channels=channels, image_size=32, seed=0)
        return model.conv1

    own, new = first(3), first(5)
    assert (new.in_channels, new.stride, new.padding) == (5, own.stride, own.padding)
    assert new.weight.std().item() == pytest.approx(own.weight.std().item(), rel=0.03)


def test_timm_networks_are_built_for_any_channels():
    pytest.importorskip("timm")
    model = build("timm/resnet10t", num_classes=4, channels=2, image_size=32, seed=0)
    assert model(torch.randn(2, 2, 32, 32)).shape == (2, 4)


def test_without_timm_its_networks_are_refused_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    library.names.cache_clear()
    remedy = r"need timm, which cannot be .* pip install --no-deps timm"
    with pytest.raises(UsageError, match=remedy):
        canonical("timm/resnet18")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16-3", "WRN16-3"),
        ("wrn28-1", "WRN28-1"),
        (" WRN-40-2 ", "WRN40-2"),
        ("resnet44", "ResNet44"),
        ("ResNet-20", "ResNet20"),
        ("resnet020", "ResNet20"),
        ("mobilenet_v2", "MobileNetV2"),
        ("MobileNetV2", "MobileNetV2"),
        ("ResNet18", "torchvision/resnet18"),
        ("Torchvision/ResNet34", "torchvision/resnet34"),
        ("torchvision/vgg11_bn", "torchvision/vgg11_bn"),
    ],
)
def test_every_spelling_has_one_canonical_name(text, expected):
    assert canonical(text) == expected
    assert canonical(expected) == expected


def test_timm_names_are_those_that_timm_lists():
    pytest.importorskip("timm")
    assert canonical("timm/ResNet18") == "timm/resnet18"
    with pytest.raises(UsageError, match=r"timm has no classification network 'resnet1888'; near"):
        canonical("timm/resnet1888")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"--teacher, --student\) must be WRN<depth>-<width> .* got ''$"),
        ("16", "must be WRN<depth>-<width> .*, got '16'"),
        ("wrm16-3", "got 'wrm16-3'; near matches: WRN16-3"),
        ("resnet45", "got 'resnet45'; near matches: .*ResNet44"),
        # What others call ResNet50 is torchvision/resnet50; 50 is of the form 6n + 2 too.
        ("resnet50", "must be WRN<depth>-<width> .*, got 'resnet50'"),
        ("17-1", r"depth 6n \+ 4 from 10 on and width >= 1, as WRN16-3 has, got '17-1'"),
        ("4-1", "depth 6n"),
        ("WRN16-0", "width >= 1, as WRN16-3 has, got 'WRN16-0'"),
        ("16-1.5", "got '16-1.5'"),
        ("torchvision/resnet19", "no classification network 'resnet19'; near matches: .*resnet18"),
        ("torchvision/fcn_resnet50", "no classification network 'fcn_resnet50'"),
    ],
)
def test_other_names_are_refused_with_what_is_known_and_near(text, message):
    with pytest.raises(UsageError, match=message) as raised:
        canonical(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("WRN16-1", {"image_size": 7}, "WRN16-1 needs images of at least 8x8 pixels, got 7x7"),
        ("ResNet18", {"image_size": 4}, "torchvision/resnet18 needs images of at least 8x8"),
        ("MobileNetV2", {"channels": 0}, "the number of channels must be at least 1, got 0"),
        ("ResNet8", {"num_classes": 0}, "the number of classes must be at least 1, got 0"),
        (
            "torchvision/vit_b_32",
            {"image_size": 32},
            r"torchvision/vit_b_32 cannot take images of 32x32 with 3 channels \(Wrong image",
        ),
    ],
)
def test_images_that_a_network_cannot_take_are_refused(name, sizes, message):
    with pytest.raises(UsageError, match=message):
        build(name, **{"num_classes": 10, "channels": 3, "image_size": 32, "seed": 0, **sizes})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WideResNet(17, 1), r"WideResNet: depth must be 6n \+ 4 .* got 17"),
        (lambda: WideResNet(16, 0), "WideResNet: width must be at least 1, got 0"),
        (lambda: WideResNet(16, 1, num_classes=0), "num_classes must be at least 1, got 0"),
        (lambda: CifarResNet(50), "CifarResNet: depth must be one of .* got 50"),
        (lambda: CifarResNet(8, channels=0), "CifarResNet: channels must be at least 1, got 0"),
        (lambda: MobileNetV2(0.01), "MobileNetV2: width must be at least 1/16, got 0.01"),
        (lambda: MobileNetV2(num_classes=0), "MobileNetV2: num_classes must be at least 1, got 0"),
    ],
)
def test_impossible_networks_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
