"""Grad-CAM: values worked out by hand, and what the report shows of real networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from amd_fused.distill.errors import UsageError
from amd_fused.distill.reports.cam_picture import cam_picture
from amd_fused.distill.reports.gradcam import (
    GradCam,
    NetworkCams,
    grad_cam,
    heat,
    levels,
    setup_grad_cams,
    spread,
)
from amd_fused.distill.reports.groups import arrange
from amd_fused.distill.reports.runs import gather
from amd_fused.distill.reports.style import png
from distill.run_folders import student_run, teacher_run, write_weights


class OneConvolution(nn.Module):
    """Maps x and 2 x of an image x; a class's logit weighs their means over positions."""

    def __init__(self, after: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.after = after
        self.classes = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1))
            self.classes.weight.copy_(torch.tensor([[3.0, 1.0], [-1.0, -2.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.after(self.conv(x)).mean((2, 3)))


IMAGE = torch.tensor([[1.0, 2.0], [3.0, -4.0]]).reshape(1, 1, 2, 2)
# A mean over four positions passes a quarter of a class's weight on to each. Class 0 then weighs
# the maps by 3/4 and 1/4: 3/4 x + 1/4 * 2 x = 1.25 x. Class 1: -1/4 x - 2/4 * 2 x = -1.25 x.
# What is negative becomes zero.
BY_HAND = {0: [[1.25, 2.5], [3.75, 0.0]], 1: [[0.0, 0.0], [0.0, 5.0]]}


@pytest.mark.parametrize("label", [0, 1])
def test_a_network_worked_out_by_hand(label: int) -> None:
    found = grad_cam(OneConvolution(nn.Identity()), "conv", IMAGE, torch.tensor([label]))
    torch.testing.assert_close(found, torch.tensor([BY_HAND[label]]))


def test_a_layer_before_an_inplace_relu_is_seen_as_it_came_out() -> None:
    # derived: the ReLU passes no gradient at the negative position, so the mean gradients are 3/4
    # of those above: 9/16 x + 3/16 * 2 x = 15/16 x.
    network = OneConvolution(nn.ReLU(inplace=True))
    found = grad_cam(network, "conv", IMAGE, torch.tensor([0]))
    torch.testing.assert_close(found, torch.tensor([[[0.9375, 1.875], [2.8125, 0.0]]]))


class ChannelsLast(OneConvolution):
    """The same network, whose layer `conv` gives [B, H, W, C]."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.conv = nn.Sequential(self.conv, Permute())

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.after(self.conv(x)).mean((1, 2)))


class Permute(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


@pytest.mark.parametrize("label", [0, 1])
def test_maps_whose_channels_come_last_give_the_same(label: int) -> None:
    found = grad_cam(ChannelsLast(), "conv", IMAGE, torch.tensor([label]), channels_last=True)
    torch.testing.assert_close(found, torch.tensor([BY_HAND[label]]))


def test_each_image_is_explained_by_its_own_label_whatever_grad_mode() -> None:
    with torch.no_grad():
        found = grad_cam(
            OneConvolution(nn.Identity()), "conv", IMAGE.repeat(2, 1, 1, 1), torch.tensor([1, 0])
        )
    torch.testing.assert_close(found, torch.tensor([BY_HAND[1], BY_HAND[0]]))
    assert not found.requires_grad


def test_the_network_is_left_as_it_was() -> None:
    network = OneConvolution(nn.Identity()).eval()
    before = torch.get_rng_state()
    grad_cam(network, "conv", IMAGE, torch.tensor([0]))
    assert [parameter.grad for parameter in network.parameters()] == [None, None]
    assert not network.conv._forward_hooks
    assert torch.equal(torch.get_rng_state(), before)


def test_heat_is_enlarged_between_centres_and_scaled_to_its_own_maximum() -> None:
    # Pixel centres of the large map lie at -1/4, 1/4, 3/4 and 5/4 of the small one's distance.
    edge = torch.tensor([0.0, 0.25, 0.75, 1.0])
    maps = torch.tensor([[[0.0, 4.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(heat(maps, 4), torch.stack([edge.expand(4, 4), torch.zeros(4, 4)]))
    torch.testing.assert_close(heat(torch.full((1, 1, 1), 1e-30), 3), torch.ones(1, 3, 3))


def test_levels_are_the_first_middle_and_last_map() -> None:
    assert levels(["a", "b", "c"]) == ["a", "b", "c"]
    assert levels(["a", "b", "c", "d"]) == ["a", "c", "d"]
    assert levels(["a", "b"]) == ["a", "b"]
    assert levels(["a"]) == ["a"]


def test_images_are_spread_over_the_classes() -> None:
    labels = torch.tensor([2, 2, 0, 1, 0, 2])
    assert spread(labels, 2) == [2, 3]
    # The first of classes 0, 1 and 2, then the second of 0 and 2, then the third of 2.
    assert spread(labels, 9) == [2, 3, 0, 4, 1, 5]


def test_teacher_and_student_are_shown_on_the_same_digits(tmp_path: Path) -> None:
    teacher = write_weights(teacher_run(tmp_path / "t", 99, network="WRN10-1"), seed=1)
    student = student_run(tmp_path / "s", "amd-gl", 95, teacher, network="WRN10-1")
    write_weights(student, seed=2)
    (setup,) = arrange(gather([student]))
    found = setup_grad_cams(setup, {})
    assert isinstance(found, GradCam)
    assert [network.label for network in found.networks] == ["Teacher", "AMD (g+l)"]
    assert found.labels == [0, 1, 2, 3, 4, 5]
    assert found.images.shape == (6, 1, 8, 8)
    assert 0 <= float(found.images.min()) < 0.1 < 0.9 < float(found.images.max()) <= 1
    for network in found.networks:
        assert [tuple(maps.shape) for maps in network.maps] == [(6, 8, 8), (6, 4, 4), (6, 2, 2)]
        for maps in network.maps:
            shown = heat(maps, 8)
            assert shown.shape == (6, 8, 8)
            assert shown.isfinite().all()
            assert shown.min() >= 0
            assert set(shown.amax((1, 2)).tolist()) <= {0.0, 1.0}
    # Two networks with other weights look elsewhere.
    assert not torch.equal(found.networks[0].maps[0], found.networks[1].maps[0])
    assert len(cam_picture(found).axes) == 3


def test_of_several_seeds_the_lowest_is_shown_and_missing_weights_are_named(
    tmp_path: Path,
) -> None:
    teacher = teacher_run(tmp_path / "t", 99, network="WRN10-1")
    for seed in (2, 1):
        path = student_run(tmp_path / f"s{seed}", "kd", 95, teacher, network="WRN10-1", seed=seed)
        write_weights(path, seed=seed)
    (setup,) = arrange(gather([tmp_path]))
    found = setup_grad_cams(setup, {})
    assert isinstance(found, GradCam)
    assert [network.folder for network in found.networks] == [str(tmp_path / "s1")]
    (note,) = found.notes
    assert note.startswith("Teacher: ")
    assert str(teacher) in note


def test_a_layer_without_maps_is_refused() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(UsageError, match="from layer 0"):
        grad_cam(network, "0", IMAGE, torch.tensor([0]))


@pytest.mark.parametrize("name", ["cat", "a $x$ b_{", "automobiles and trucks"])
def test_class_names_are_shown_as_they_are(name: str) -> None:
    network = NetworkCams("Teacher", "folder", "net", ["conv"], [torch.rand(2, 2, 2)], [0, 1])
    found = GradCam([3, 4], [0, 1], [name] * 2, torch.rand(2, 4, 8, 8), [network], [])
    figure = cam_picture(found)
    assert png(figure).startswith(b"\x89PNG")
    shown = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert shown == [name if len(name) < 12 else "automobiles…"] * 2


def test_data_that_is_gone_is_named(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    teacher = teacher_run(tmp_path / "t", 99, data="cifar10", data_dir=absent)
    (setup,) = arrange(gather([teacher]))
    found = setup_grad_cams(setup, {})
    assert isinstance(found, str)
    assert absent in found
