"""The digits are split once and for all: disjoint, stratified, normalised without the test part."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

sklearn_datasets = pytest.importorskip("sklearn.datasets")

from amd_fused.distill import data  # noqa: E402
from amd_fused.distill.config import Settings  # noqa: E402
from amd_fused.distill.data.digits import parts  # noqa: E402
from amd_fused.distill.errors import UsageError  # noqa: E402


def digits(**options):
    return data.load(Settings(data="digits", **options))


def everything(images):
    return images.batch(range(len(images)), None)


def pixels(loaded, part):
    """The images as they were: whole numbers from 0 to 16."""
    raw = (everything(part).flatten(1).double() * loaded.std[0] + loaded.mean[0]) * 16
    assert (raw - raw.round()).abs().max() < 1e-4
    return [tuple(row) for row in raw.round().int().tolist()]


def test_parts_together_are_the_whole_set_and_share_no_image():
    loaded = digits()
    images, labels = sklearn_datasets.load_digits(return_X_y=True)
    whole = Counter((*map(int, image), int(y)) for image, y in zip(images, labels, strict=True))
    train, test = (
        Counter((*x, y) for x, y in zip(pixels(loaded, part), part.labels.tolist(), strict=True))
        for part in (loaded.train, loaded.test)
    )
    assert train + test == whole
    assert not train & test
    assert (len(loaded.train), len(loaded.test)) == (898, 899)
    assert everything(loaded.train).shape == (898, 1, 8, 8)
    assert everything(loaded.train).dtype == torch.float32
    assert loaded.train.labels.dtype == torch.int64
    assert (loaded.num_classes, loaded.channels, loaded.image_size) == (10, 1, 8)
    assert loaded.class_names == tuple("0123456789")


def test_split_is_stratified():
    loaded = digits()
    train, test = (part.labels.bincount(minlength=10) for part in (loaded.train, loaded.test))
    assert (train - test).abs().max() <= 1


def test_split_is_the_same_every_time():
    first = digits()
    torch.manual_seed(99)
    parts.cache_clear()
    second = digits()
    assert torch.equal(everything(first.train), everything(second.train))
    assert torch.equal(everything(first.test), everything(second.test))
    # Written down, so that another version that splits differently is noticed.
    assert first.train.labels[:12].tolist() == [8, 1, 4, 3, 1, 6, 2, 8, 6, 5, 2, 3]
    assert first.test.labels[:12].tolist() == [6, 5, 9, 4, 8, 8, 2, 3, 9, 3, 0, 7]


def test_normalisation_knows_the_training_part_only():
    loaded = digits()
    assert everything(loaded.train).mean().item() == pytest.approx(0, abs=1e-5)
    assert everything(loaded.train).std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert abs(everything(loaded.test).mean().item()) > 1e-4
    assert digits(train_size=20).mean == loaded.mean


def test_training_subsets_are_balanced_and_nested():
    small, large = digits(train_size=50), digits(train_size=203)
    assert small.train.labels.bincount(minlength=10).tolist() == [5] * 10
    assert set(large.train.labels.bincount(minlength=10).tolist()) == {20, 21}
    assert torch.equal(large.train.batch(range(50), None), everything(small.train))
    assert torch.equal(large.train.labels[:50], small.train.labels)
    assert len(small.test) == 899


def test_a_subset_takes_classes_in_turns():
    part = digits().train
    chosen = digits(train_size=20).train
    firsts = [[n for n, y in enumerate(part.labels.tolist()) if y == k][:2] for k in range(10)]
    expected = sorted(first for first, _ in firsts) + sorted(second for _, second in firsts)
    assert torch.equal(everything(chosen), part.batch(expected, None))


def test_a_subset_larger_than_the_training_part_is_refused():
    with pytest.raises(
        UsageError, match="--train-size must be at most the 898 training images, got 899"
    ):
        digits(train_size=899)


def test_crops_of_224_pixels_are_refused():
    with pytest.raises(UsageError, match="--augment must be none or crop-flip for digits"):
        digits(augment="imagenet")


def test_held_out_images_are_tested_on_and_change_no_training_subset():
    whole, held = digits(), digits(validation_size=200)
    assert (len(held.train), len(held.test)) == (698, 200)
    # Of classes of 87 to 91 images, whose last turns not all have.
    assert held.test.labels.bincount(minlength=10).min() >= 17
    parts = [Counter(pixels(held, part)) for part in (held.train, held.test)]
    assert parts[0] + parts[1] == Counter(pixels(whole, whole.train))
    small, small_held = digits(train_size=300), digits(train_size=300, validation_size=200)
    assert torch.equal(everything(small.train), everything(small_held.train))


def test_a_test_subset_is_balanced_and_the_same_every_time():
    small = digits(test_size=50)
    assert small.test.labels.bincount(minlength=10).tolist() == [5] * 10
    assert torch.equal(everything(small.test), everything(digits(test_size=50).test))
    assert len(small.train) == 898


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_size": 898}, "--validation-size must be at most the 897 training images but"),
        ({"validation_size": 600, "train_size": 299}, "at most the 298 training images, got 299"),
        ({"test_size": 900}, "--test-size must be at most the 899 test images, got 900"),
    ],
)
def test_more_images_than_there_are_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        digits(**options)
