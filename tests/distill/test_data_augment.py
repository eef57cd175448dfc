"""Training images change as in the paper, each by the seed and its index alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from amd_fused.distill import data
from amd_fused.distill.config import Settings
from amd_fused.distill.data.augment import crop_flip
from distill.published_layouts import (
    plain,
    random_pixels,
    write_cifar10,
    write_image,
    write_imagenet,
    write_tiny_imagenet,
)

WNIDS = ("n01443537", "n02504458")


def candidates(image):
    """What pad, crop and flip can make of an image [C, H, W], by shift and flip."""
    height, width = image.shape[1:]
    made = {}
    for down in range(-2, 3):
        for right in range(-2, 3):
            moved = np.zeros_like(image)
            for y in range(height):
                for x in range(width):
                    if 0 <= y + down < height and 0 <= x + right < width:
                        moved[:, y, x] = image[:, y + down, x + right]
            made[moved.tobytes()] = (down, right, False)
            made[moved[:, :, ::-1].tobytes()] = (down, right, True)
    assert len(made) == 50
    return made


def test_crops_and_flips_are_those_of_the_padded_image_and_equally_frequent():
    image = np.random.default_rng(0).integers(1, 256, (3, 6, 5), dtype=np.uint8)
    known = candidates(image)
    count = 5000
    batch = torch.from_numpy(image).expand(count, 3, 6, 5)
    drawn = crop_flip(batch, 7, range(count))
    kinds = Counter(known[one.numpy().tobytes()] for one in drawn)
    # 100 of each of the 50 are expected; chi-square with 49 degrees of freedom is below 94 in
    # 99.99 % of cases.
    assert len(kinds) == 50
    assert sum((number - 100) ** 2 / 100 for number in kinds.values()) < 94


def loaded_set(tmp_path, name, augment):
    if name == "cifar10":
        write_cifar10(tmp_path)
    elif name == "tiny-imagenet":
        write_tiny_imagenet(tmp_path, WNIDS)
        for n, wnid in enumerate(WNIDS):
            file = tmp_path / "tiny-imagenet-200" / "train" / wnid / "images" / "x.png"
            write_image(file, random_pixels(64, 64, seed=n))
    else:
        write_imagenet(tmp_path, WNIDS, each=1)
        for n, wnid in enumerate(WNIDS):
            file = tmp_path / "imagenet" / "train" / wnid / "x.png"
            write_image(file, random_pixels(250, 300, seed=n))
    return data.load(Settings(data=name, data_dir=str(tmp_path), augment=augment))


SETS = [("cifar10", "crop-flip"), ("tiny-imagenet", "crop-flip"), ("imagenet", "imagenet")]


@pytest.mark.parametrize(("name", "augment"), SETS)
def test_changes_depend_on_seed_and_index_alone(tmp_path, name, augment):
    images = loaded_set(tmp_path, name, augment).train
    together = images.batch(range(4), 11)
    torch.manual_seed(5)
    for order in ([3], [2, 0], [1, 3, 2, 0]):
        assert torch.equal(images.batch(order, 11), together[order])
    assert torch.equal(images.batch([1, 1], 11), together[[1, 1]])
    assert not torch.equal(images.batch(range(4), 12), together)


@pytest.mark.parametrize(("name", "augment"), SETS)
def test_changes_leave_the_global_generator_alone(tmp_path, name, augment):
    images = loaded_set(tmp_path, name, augment).train
    before = torch.get_rng_state()
    images.batch(range(4), 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "augment"), [*SETS, ("cifar10", "none")])
def test_without_a_seed_or_augmentation_nothing_changes(tmp_path, name, augment):
    images = loaded_set(tmp_path, name, augment).train
    assert torch.equal(images.batch([0, 1], None), images.batch([0, 1], None))
    changed = not torch.equal(images.batch(range(4), 3), images.batch(range(4), None))
    assert changed == (augment != "none")


def test_tiny_imagenet_is_cropped_from_68_pixels(tmp_path):
    loaded = loaded_set(tmp_path, "tiny-imagenet", "crop-flip")
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (loaded.mean, loaded.std))
    # Image 2 is the first class's x.png: its pixels are never black by chance over whole rows.
    for seed in range(20):
        image = (loaded.train.batch([2], seed)[0] * std + mean) * 255
        black = image.abs().amax(0) < 0.5
        assert (int(black.all(1).sum()), int(black.all(0).sum())) <= (2, 2)
        kept = image[:, ~black.all(1)][:, :, ~black.all(0)]
        assert min(kept.shape[1:]) >= 62


def test_imagenet_crops_are_random_squares_of_224_pixels(tmp_path):
    # Red grows from left to right and green from top to bottom: they tell where a pixel was.
    ramp = plain(256, 256, (0, 0, 0))
    ramp[..., 0] = np.arange(256)
    ramp[..., 1] = np.arange(256)[:, None]
    write_imagenet(tmp_path, WNIDS, each=1)
    write_image(tmp_path / "imagenet" / "train" / WNIDS[0] / "a.png", ramp)
    settings = Settings(data="imagenet", data_dir=str(tmp_path), augment="imagenet")
    loaded = data.load(settings)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (loaded.mean, loaded.std))
    areas, flips = [], 0
    for seed in range(60):
        image = (loaded.train.batch([0], seed)[0] * std + mean) * 255
        assert image.shape == (3, 224, 224)
        width = (image[0, 100, -1] - image[0, 100, 0]).item()
        height = (image[1, -1, 100] - image[1, 0, 100]).item()
        assert height > 0
        flips += width < 0
        areas.append(abs(width) * height / 256**2)
    # RandomResizedCrop takes 8 to 100 % of the area, evenly; flips are as frequent as not.
    assert 0.07 < min(areas) < 0.25
    assert 0.8 < max(areas) <= 1
    assert 15 < flips < 45


def test_imagenet_augmentation_makes_other_folders_224_pixels_large(tmp_path):
    write_tiny_imagenet(tmp_path, WNIDS)
    loaded = data.load(Settings(data="tiny-imagenet", data_dir=str(tmp_path), augment="imagenet"))
    assert loaded.image_size == 224
    assert (
        loaded.train.batch([0], 1).shape == loaded.test.batch([0], None).shape == (1, 3, 224, 224)
    )
