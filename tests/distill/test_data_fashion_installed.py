"""Fashion-MNIST as Debian's package installs it; conftest.py collects this only where it is."""

from __future__ import annotations

import pytest
import torch

from amd_fused.distill import data
from amd_fused.distill.config import Settings


@pytest.fixture(scope="module")
def fashion() -> data.DataSet:
    return data.load(Settings(data="fashion-mnist", data_dir="no such folder"))


def test_the_installed_images_are_all_there(fashion):
    assert (len(fashion.train), len(fashion.test)) == (60000, 10000)
    assert fashion.train.labels.bincount().tolist() == [6000] * 10
    assert fashion.test.labels.bincount().tolist() == [1000] * 10
    # As published: the first training image is an ankle boot, the first test image too.
    firsts = [fashion.class_names[part.labels[0]] for part in (fashion.train, fashion.test)]
    assert firsts == ["Ankle boot", "Ankle boot"]


def test_normalised_training_images_have_mean_0_and_deviation_1_within_their_border(fashion):
    images = fashion.train.batch(range(0, 60000, 10), None)
    inside = images[..., 2:30, 2:30].double()
    assert inside.mean().item() == pytest.approx(0, abs=0.02)
    assert inside.std().item() == pytest.approx(1, abs=0.02)
    border = torch.ones(32, 32, dtype=torch.bool)
    border[2:30, 2:30] = False
    assert images[..., border].unique().tolist() == [pytest.approx(-0.2860 / 0.3530)]
