"""The digits are split once and for all: disjoint, stratified, normalised without the test part."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

sklearn_datasets = pytest.importorskip("sklearn.datasets")

from amd_fused.distill.data import Images, load_digits  # noqa: E402


def pixels(data, part):
    """The images as they were: whole numbers from 0 to 16."""
    raw = part.images.flatten(1).double() * data.std + data.mean
    assert (raw - raw.round()).abs().max() < 1e-4
    return [tuple(row) for row in raw.round().int().tolist()]


def test_parts_together_are_the_whole_set_and_share_no_image():
    data = load_digits()
    images, labels = sklearn_datasets.load_digits(return_X_y=True)
    whole = Counter((*map(int, image), int(y)) for image, y in zip(images, labels, strict=True))
    train, test = (
        Counter((*x, y) for x, y in zip(pixels(data, part), part.labels.tolist(), strict=True))
        for part in (data.train, data.test)
    )
    assert train + test == whole
    assert not train & test
    assert (len(data.train), len(data.test)) == (898, 899)
    assert data.train.images.shape[1:] == (1, 8, 8)
    assert data.train.images.dtype == torch.float32
    assert data.train.labels.dtype == torch.int64


def test_split_is_stratified():
    data = load_digits()
    train, test = (part.labels.bincount(minlength=10) for part in (data.train, data.test))
    assert len(train) == data.num_classes
    assert (train - test).abs().max() <= 1


def test_split_is_the_same_every_time():
    first = load_digits()
    torch.manual_seed(99)
    second = load_digits()
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.images, second.test.images)
    # Written down, so that another version that splits differently is noticed.
    assert first.train.labels[:12].tolist() == TRAIN_LABELS
    assert first.test.labels[:12].tolist() == TEST_LABELS


TRAIN_LABELS = [8, 1, 4, 3, 1, 6, 2, 8, 6, 5, 2, 3]
TEST_LABELS = [6, 5, 9, 4, 8, 8, 2, 3, 9, 3, 0, 7]


def test_normalisation_knows_the_training_part_only():
    data = load_digits()
    assert data.train.images.mean().item() == pytest.approx(0, abs=1e-5)
    assert data.train.images.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert abs(data.test.images.mean().item()) > 1e-4


def test_subsets_are_balanced_and_nested():
    train = load_digits().train
    small, large = train.subset(50), train.subset(203)
    assert small.labels.bincount(minlength=10).tolist() == [5] * 10
    assert set(large.labels.bincount(minlength=10).tolist()) == {20, 21}
    assert torch.equal(large.images[:50], small.images)
    assert len(train.subset(len(train))) == len(train)


def test_subset_takes_classes_in_turns():
    images = torch.arange(6.0).view(6, 1, 1, 1)
    part = Images(images, torch.tensor([0, 0, 0, 1, 1, 0]))
    chosen = part.subset(4)
    assert chosen.images.flatten().tolist() == [0, 3, 1, 4]
    assert chosen.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("size", [0, 899])
def test_impossible_subsets_are_refused(size):
    with pytest.raises(ValueError, match=f"Images: size must be between 1 and 898, got {size}"):
        load_digits().train.subset(size)
