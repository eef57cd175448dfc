"""Small real images that come with scikit-learn: nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits as sklearn_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

# One split for every run, so that results are comparable; training seeds do not touch it.
SPLIT_SEED = 0
# Half of the images: of 899, one is 0.11 % of accuracy.
TEST_FRACTION = 0.5


@dataclass(frozen=True)
class Images:
    """Normalised images `[N, C, H, W]` float32 with their classes `[N]` int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, size: int) -> Images:
        """The first `size` images when classes take turns: balanced, and nested for growing sizes.

        Raises:
            ValueError: size is below 1 or above the number of images.
        """
        if not 1 <= size <= len(self):
            raise ValueError(f"Images: size must be between 1 and {len(self)}, got {size}")
        turn = torch.zeros_like(self.labels)
        for label in self.labels.unique():
            members = self.labels == label
            turn[members] = torch.arange(int(members.sum()))
        chosen = turn.argsort(stable=True)[:size]
        return Images(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Dataset:
    """A training and a held-out test part, normalised by the training part's `mean` and `std`."""

    name: str
    train: Images
    test: Images
    num_classes: int
    mean: float
    std: float

    @property
    def in_channels(self) -> int:
        return self.train.images.shape[1]


def load_digits() -> Dataset:
    """Scikit-learn's handwritten digits: 1,797 grey 8x8 images of 10 classes, half held out.

    The split is stratified, seeded with `SPLIT_SEED`, and the same at every call.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
    Repository, 1998; its test part.
    """
    pixels, labels = sklearn_digits(return_X_y=True)
    images = pixels.reshape(-1, 1, 8, 8).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=TEST_FRACTION, stratify=labels, random_state=SPLIT_SEED
    )
    mean, std = float(train_x.mean()), float(train_x.std())
    parts = [
        Images(torch.from_numpy((x - mean) / std), torch.from_numpy(y).long())
        for x, y in ((train_x, train_y), (test_x, test_y))
    ]
    return Dataset("scikit-learn digits", parts[0], parts[1], 10, mean, std)
