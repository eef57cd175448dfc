"""Networks have as many parameters as the AMD paper's tables say, and as formulas give."""

from __future__ import annotations

import pytest

from amd_fused.distill.models import build, count_parameters


def parameters_of(name: str, num_classes: int = 10, channels: int = 3) -> int:
    return count_parameters(
        build(name, num_classes=num_classes, channels=channels, image_size=8, seed=0)
    )


@pytest.mark.parametrize(
    ("name", "num_classes", "millions", "digits"),
    [
        # Table 2.
        ("WRN16-1", 10, 0.18, 2),
        ("WRN16-3", 10, 1.5, 1),
        ("WRN28-1", 10, 0.37, 2),
        ("ResNet44", 10, 0.66, 2),
        # Table 7, for CIFAR-10 and CINIC-10.
        ("WRN40-1", 10, 0.6, 1),
        ("WRN16-8", 10, 11.0, 1),
        ("WRN28-3", 10, 3.3, 1),
        ("WRN40-2", 10, 2.2, 1),
        ("ResNet20", 10, 0.3, 1),
        ("MobileNetV2", 10, 0.6, 1),
        # Table 7, for Tiny-ImageNet.
        ("WRN40-1", 200, 0.6, 1),
        ("WRN40-2", 200, 2.3, 1),
        ("WRN16-3", 200, 1.6, 1),
    ],
)
def test_parameter_counts_are_the_papers(name, num_classes, millions, digits):
    assert round(parameters_of(name, num_classes) / 1e6, digits) == millions


@pytest.mark.parametrize(
    ("student", "teacher", "percent"),
    [
        ("WRN16-1", "WRN16-3", 11.30),
        ("WRN16-1", "WRN28-1", 47.38),
        ("WRN28-1", "WRN16-3", 23.85),
        # With zero-padded shortcuts in ResNet44 it would be 26.58.
        ("WRN16-1", "ResNet44", 26.47),
        ("WRN16-1", "WRN28-3", 5.31),
    ],
)
def test_compression_ratios_are_those_of_tables_2_and_4_to_the_last_digit(
    student, teacher, percent
):
    ratio = parameters_of(student) / parameters_of(teacher)
    assert round(100 * ratio, 2) == percent


@pytest.mark.parametrize(("teacher", "percent"), [("WRN40-1", 32.53), ("WRN40-2", 8.27)])
def test_compression_ratios_for_200_classes_are_those_of_table_5_within_a_hundredth(
    teacher, percent
):
    # 201 outputs would give them to the last digit, but Tiny-ImageNet has 200 classes.
    ratio = parameters_of("WRN16-1", 200) / parameters_of(teacher, 200)
    assert 100 * ratio == pytest.approx(percent, abs=0.01)


# Closed formulas. A 3x3 convolution has 9 weights a pair of channels and no bias, BN 2 a channel.


def wrn_parameters(depth: int, k: int, classes: int, channels: int) -> int:
    blocks = (depth - 4) // 6
    total = 9 * channels * 16
    for c_in, c in ((16, 16 * k), (16 * k, 32 * k), (32 * k, 64 * k)):
        shortcut = 0 if c_in == c else c_in * c
        total += 2 * c_in + 9 * c_in * c + 2 * c + 9 * c * c + shortcut
        total += (blocks - 1) * (4 * c + 18 * c * c)
    return total + 2 * 64 * k + (64 * k + 1) * classes


def resnet_parameters(depth: int, classes: int, channels: int) -> int:
    blocks = (depth - 2) // 6
    identity = [18 * c * c + 4 * c for c in (16, 32, 64)]
    # A projecting block has c / 2 channels in: 4.5 + 9 + 0.5 products of channels, three BN.
    projecting = [14 * c * c + 6 * c for c in (32, 64)]
    total = 9 * channels * 16 + 2 * 16 + blocks * identity[0]
    total += sum(projecting) + (blocks - 1) * sum(identity[1:])
    return total + 65 * classes


def mobilenet_parameters(classes: int, channels: int) -> int:
    # Half the channels of MobileNetV2's Table 2.
    groups = [(12, 2), (16, 3), (32, 4), (48, 3), (80, 3), (160, 1)]
    total = 9 * channels * 16 + 2 * 16
    total += 9 * 16 + 2 * 16 + 16 * 8 + 2 * 8  # the first block expands nothing
    c_in = 8
    for c, blocks in groups:
        for _ in range(blocks):
            hidden = 6 * c_in
            total += hidden * c_in + 2 * hidden + 9 * hidden + 2 * hidden + hidden * c + 2 * c
            c_in = c
    return total + 160 * 640 + 2 * 640 + 641 * classes


@pytest.mark.parametrize(("classes", "channels"), [(10, 3), (7, 1)])
def test_parameter_counts_are_those_of_closed_formulas(classes, channels):
    for depth, k in [(10, 1), (16, 3), (28, 1), (40, 2)]:
        expected = wrn_parameters(depth, k, classes, channels)
        assert parameters_of(f"WRN{depth}-{k}", classes, channels) == expected
    for depth in (8, 20, 44, 110):
        expected = resnet_parameters(depth, classes, channels)
        assert parameters_of(f"ResNet{depth}", classes, channels) == expected
    assert parameters_of("MobileNetV2", classes, channels) == mobilenet_parameters(
        classes, channels
    )


def test_torchvision_resnets_have_the_counts_that_torchvision_documents():
    assert parameters_of("ResNet18", 1000) == 11_689_512
    # 64 filters of 7x7 lose two channels, and the last layer has 10 classes of 513 numbers.
    fewer = 2 * 49 * 64 + 990 * 513
    assert parameters_of("ResNet18", 10, channels=1) == 11_689_512 - fewer
