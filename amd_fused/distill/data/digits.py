"""Small real images that come with scikit-learn: nothing is downloaded."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits as sklearn_digits
from sklearn.model_selection import train_test_split

from amd_fused.distill.config import Settings
from amd_fused.distill.data.images import DataSet, InMemory, Split
from amd_fused.distill.errors import UsageError

# One split for every run, so that results are comparable; training seeds do not touch it.
SPLIT_SEED = 0
# Half of the images: of 899, one is 0.11 % of accuracy.
TEST_FRACTION = 0.5
# Pixels are whole numbers from 0 to 16.
PEAK = 16.0


def load_digits(settings: Settings) -> DataSet:
    """Scikit-learn's handwritten digits: 1,797 grey 8x8 images of 10 classes, half held out.

    The split is stratified, seeded with `SPLIT_SEED`, and the same at every call. Normalised with
    the mean and deviation of the training part.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
    Repository, 1998; its test part.
    """
    if settings.augment == "imagenet":
        raise UsageError("--augment must be none or crop-flip for digits, got 'imagenet'")
    train_x, test_x, train_y, test_y = parts()
    mean, std = (float(train_x.mean() / PEAK),), (float(train_x.std() / PEAK),)
    train, test = (
        Split(
            InMemory(torch.tensor(x)),
            torch.tensor(y).long(),
            mean,
            std,
            settings.augment,
            PEAK,
        )
        for x, y in ((train_x, train_y), (test_x, test_y))
    )
    return DataSet("digits", tuple("0123456789"), train, test, 1, 8, mean, std)


@cache
def parts() -> list[NDArray[np.uint8 | np.int64]]:
    """Images of training and of test, labels of both; read once for all runs of a process."""
    pixels, labels = sklearn_digits(return_X_y=True)
    images = pixels.reshape(-1, 1, 8, 8).astype(np.uint8)
    halves: list[NDArray[np.uint8 | np.int64]] = train_test_split(
        images, labels, test_size=TEST_FRACTION, stratify=labels, random_state=SPLIT_SEED
    )
    return halves
