"""Plugins that tests load, and forgetting them."""

from __future__ import annotations

import sys
from pathlib import Path

from amd_fused.distill import plugins
from amd_fused.distill.data_sets import DATA_SETS
from amd_fused.distill.methods import BUILT_IN, OPTIONS, TERMS

# A loss of the last maps that a step makes smaller, one of logits, and squares and crosses.
MINE = """
import torch
from torch import nn
from amd_fused.distill import POSITIVE, ImageData, option, register_dataset, register_method


class Mean(nn.Module):
    def __init__(self, power, channels):
        super().__init__()
        self.power = power
        self.map = nn.Conv2d(*channels, 1)

    def forward(self, student, teacher):
        return (self.map(student[-1]) - teacher[-1]).abs().pow(self.power).mean()


@register_method(
    "mine", compares="maps", weight=0.5, label="Mine", paired=True,
    options={"power": option(2.0, "exponent", POSITIVE), "form": option("a", "form", choices="ab")},
)
def mine(settings, shapes):
    channels = shapes.student_channels[-1], shapes.teacher_channels[-1]
    return Mean(settings.mine_power, channels)


class Squared(nn.Module):
    def forward(self, student, teacher):
        return (student - teacher).square().mean()


@register_method("logit-mse", compares="logits")
def logit_mse(settings, shapes):
    return Squared()


@register_dataset("squares")
def squares(settings):
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 99, (64, 3, 8, 8), dtype=torch.uint8, generator=draw)
    labels = torch.arange(64) % 4
    for image, label in zip(images, labels):
        image[label % 3, 2 * label : 2 * label + 2] += 150
    return ImageData((images[:40], labels[:40]), (images[40:], labels[40:]), 4)
"""


def forget() -> None:
    """What is registered and loaded is not there any more, as in another process."""
    for name, plugin in plugins._loaded.items():
        del sys.modules[name]
        sys.path.remove(str(Path(plugin).parent))
    plugins._loaded.clear()
    TERMS[:] = BUILT_IN
    OPTIONS.clear()
    for name in [name for name, reader in DATA_SETS.items() if not isinstance(reader, str)]:
        del DATA_SETS[name]
