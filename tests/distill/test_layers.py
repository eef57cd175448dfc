"""Networks name their feature maps and embedding; pairs that cannot be compared are found."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import nn

from amd_fused import FeatureHooks, amd_loss
from amd_fused.distill.errors import UsageError
from amd_fused.distill.models import (
    Layers,
    build,
    check_pair,
    embedding_width,
    layers,
    with_layouts,
)
from amd_fused.distill.models.layouts import has_channels_last
from amd_fused.distill.vision import load_torchvision


@cache
def network(name: str, channels: int = 3, image_size: int = 32) -> nn.Module:
    return build(name, num_classes=4, channels=channels, image_size=image_size, seed=0)


@pytest.mark.parametrize(
    ("name", "channels", "embedding"),
    [
        ("WRN16-1", (16, 32, 64), 64),
        ("WRN10-3", (48, 96, 192), 192),
        ("ResNet14", (16, 32, 64), 64),
        ("MobileNetV2", (12, 16, 160), 640),
    ],
)
@pytest.mark.parametrize("size", [8, 32, 64])
def test_maps_of_small_image_networks_are_as_large_as_a_wrns_of_table_1(
    name, channels, embedding, size
):
    model = network(name)
    own = layers(name, model)
    with FeatureHooks(model, [*own.maps, own.embedding]) as hooks:
        model(torch.randn(2, 3, size, size))
        shapes = [tuple(feature.shape) for feature in hooks.features]
    maps = zip(channels, (size, size // 2, size // 4), strict=True)
    assert shapes == [*((2, c, side, side) for c, side in maps), (2, embedding)]
    assert embedding_width(model, own, 3, size) == embedding


@pytest.mark.parametrize("name", ["ResNet18", "timm/resnet18"])
def test_maps_of_resnets_from_libraries_are_their_four_groups(name):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    model = network(name, image_size=64)
    own = layers(name, model)
    assert own.maps == ("layer1", "layer2", "layer3", "layer4")
    assert embedding_width(model, own, 3, 64) == 512
    with FeatureHooks(model, own.maps) as hooks:
        model(torch.randn(2, 3, 64, 64))
        shapes = [tuple(feature.shape[1:]) for feature in hooks.features]
    assert shapes == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]


@pytest.mark.parametrize("teacher", ["WRN10-2", "ResNet8", "MobileNetV2"])
@pytest.mark.parametrize("size", [8, 13])
def test_small_image_networks_can_be_paired_from_8x8_on_with_the_local_loss(teacher, size):
    pair = network("WRN10-1", 1), network(teacher, 1)
    own = [layers(name, model) for name, model in zip(("WRN10-1", teacher), pair, strict=True)]
    check_pair(pair[1], own[1], pair[0], own[0], 1, size)
    images = torch.randn(2, 1, size, size)
    features = []
    for model, found in zip(pair, own, strict=True):
        with FeatureHooks(model, found.maps) as hooks:
            model(images)
            # Reading a feature that a later layer overwrote would raise here.
            features.append(hooks.features)
    loss = amd_loss(*features, local_weight=0.2, backend="reference")
    assert torch.isfinite(loss)
    assert loss > 0


def test_given_layers_replace_the_networks_own():
    model = network("WRN10-1")
    assert layers("WRN10-1", model, ("conv4",)) == Layers(("conv4",), "pool")
    assert layers("WRN10-1", model, embedding="bn") == Layers(("conv2", "conv3", "conv4"), "bn")
    assert layers("WRN10-1", model, ("conv3.0", "conv4"), "fc").maps == ("conv3.0", "conv4")


def test_embedding_of_a_map_is_flattened():
    model = network("WRN10-1")
    assert embedding_width(model, Layers((), "conv4"), 3, 16) == 64 * 4 * 4


def test_trying_a_model_leaves_it_as_it_was():
    model = deepcopy(network("WRN10-1")).train()
    model.conv3.eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    own = layers("WRN10-1", model)
    embedding_width(model, own, 3, 32)
    check_pair(model, own, model, own, 3, 32)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_other_networks_must_be_told_their_layers():
    model = network("torchvision/squeezenet1_1")
    with pytest.raises(UsageError, match=r"by --teacher-layers and --student-layers; it has feat"):
        layers("torchvision/squeezenet1_1", model)
    given = layers("torchvision/squeezenet1_1", model, ("features.4", "features.7"))
    assert given.embedding == ""
    check_pair(model, given, model, given, 3, 64)
    with pytest.raises(UsageError, match=r"--student-embedding must name .* of SqueezeNet"):
        embedding_width(model, given, 3, 64)


@pytest.mark.parametrize(
    ("maps", "embedding", "message"),
    [
        (("conv9",), "", "--teacher-layers and --student-layers, WRN10-1: .* got 'conv9'; near .*"),
        (("conv3", "conv3"), "", "distinct, got \\['conv3'\\] more than once"),
        ((), "pol", "--student-embedding, WRN10-1: .* got 'pol'; near matches: \\['pool'"),
        ((), "conv4", "'conv4' is a feature map already; name the pooling behind it"),
    ],
)
def test_layer_paths_that_cannot_be_are_refused_in_one_line(maps, embedding, message):
    with pytest.raises(UsageError, match=message) as raised:
        layers("WRN10-1", network("WRN10-1"), maps, embedding)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("teacher", "maps_t", "maps_s", "size", "message"),
    [
        ("WRN10-1", ("conv3",), ("conv3", "conv4"), 16, "must be equally many, got \\['conv3'\\]"),
        (
            "WRN10-2",
            ("conv2", "conv3"),
            ("conv2", "conv4"),
            32,
            r"one size, got \[B, 64, 16, 16\] of the teacher's 'conv3' and \[B, 64, 8, 8\] of the "
            "student's 'conv4' for images of 32x32; name layers of one size by --teacher-layers",
        ),
        ("WRN10-1", ("fc",), ("conv4",), 16, r"\[B, H, W, C\], got \[B, 4\] of 'fc'"),
        ("ResNet18", ("layer4",), ("conv4",), 8, r"must be of one size, got \[B, 512, 1, 1\]"),
        ("ResNet18", ("layer4",), ("pool.0",), 8, "must be at least 2x2, got .* earlier layers"),
    ],
)
def test_pairs_that_cannot_be_compared_are_refused(teacher, maps_t, maps_s, size, message):
    teacher_model, student = network(teacher), network("WRN10-1")
    with pytest.raises(UsageError, match=message) as raised:
        check_pair(
            teacher_model,
            layers(teacher, teacher_model, maps_t),
            student,
            layers("WRN10-1", student, maps_s),
            3,
            size,
        )
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "size", "maps", "last"),
    [
        # A convolution in front of Swin's blocks is [B, C, H, W].
        ("torchvision/swin_t", 64, ("features.0.0", "features.0", "features.3"), {1, 2}),
        ("timm/swin_tiny_patch4_window7_224", 224, ("patch_embed.proj", "layers.0"), {1}),
        ("torchvision/convnext_tiny", 64, ("features.1", "features.1.0.block.1"), {1}),
        ("ResNet18", 64, ("layer1", "layer2"), set()),
    ],
)
def test_where_the_channels_are_is_found_layer_by_layer(name, size, maps, last):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    model = network(name, image_size=min(size, 224))
    found = with_layouts(model, layers(name, model, maps), 3, size)
    assert found.channels_last == {maps[index] for index in last}
    with FeatureHooks(model, maps) as hooks, torch.no_grad():
        model(torch.randn(1, 3, size, size))
        shapes = [hooks[path].shape for path in maps]
    for index, shape in enumerate(shapes):
        side = shape[1:3] if index in last else shape[2:]
        assert side[0] == side[1] < size


class Cubes(nn.Module):
    """Maps of as many channels as rows and columns, which no shape tells apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2))


@pytest.mark.parametrize(("declared", "last"), [("NHWC", {"norm"}), ("NCHW", set())])
def test_where_shapes_do_not_tell_the_network_is_asked(declared, last):
    model = Cubes()
    model.output_fmt = declared
    assert with_layouts(model, Layers(("conv", "norm"), ""), 1, 8).channels_last == last


def test_where_shapes_do_not_tell_torchvisions_swin_is_known():
    # Its cubes come with images of 384x384 and more, too large for a test.
    model = network("torchvision/swin_t", image_size=64)
    assert has_channels_last(model, model.get_submodule("features.1"), (1, 96, 96, 96))
    assert not has_channels_last(model, model.get_submodule("features.0.0"), (1, 96, 96, 96))
    assert not has_channels_last(network("ResNet18"), nn.Identity(), (1, 64, 64, 64))


def test_pairs_of_both_layouts_are_compared_by_height_and_width():
    swin = network("torchvision/swin_t", image_size=64)
    own = layers("torchvision/swin_t", swin, ("features.1", "features.3"))
    resnet = network("ResNet18", image_size=64)
    check_pair(resnet, layers("ResNet18", resnet, ("layer1", "layer2")), swin, own, 3, 64)
    message = r"one size, got \[B, 128, 8, 8\] of the .* and \[B, 96, 16, 16\] of the student's"
    with pytest.raises(UsageError, match=message):
        check_pair(resnet, layers("ResNet18", resnet, ("layer2", "layer3")), swin, own, 3, 64)


def test_tokens_are_refused_in_one_line():
    # A small one of the same form.
    vit = load_torchvision().models.VisionTransformer
    model = vit(64, 32, num_layers=4, num_heads=2, hidden_dim=16, mlp_dim=16, num_classes=4)
    found = layers("torchvision/vit_b_32", model, ("encoder.layers.encoder_layer_3",))
    message = r"\[B, H, W, C\], got tokens \[B, N, C\] = \[B, 5, 16\] of .* in VisionTransformer"
    with pytest.raises(UsageError, match=message) as raised:
        check_pair(model, found, model, found, 3, 64)
    assert "\n" not in str(raised.value)


def test_layers_that_do_not_run_or_give_no_tensor_are_refused():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Conv2d(3, 2, 1)
            self.unused = nn.Conv2d(3, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x).flatten(1)

    model = Net()
    with pytest.raises(UsageError, match="'unused' did not run"):
        embedding_width(model, layers("net", model, ("used",), "unused"), 3, 8)
