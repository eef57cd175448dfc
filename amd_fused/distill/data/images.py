"""What a data set is to the rest of the trainer: two splits that give normalised batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from amd_fused.distill.data import augment


class Images(Protocol):
    """One split of a data set."""

    @property
    def labels(self) -> Tensor:
        """Classes `[N]`, int64, on the CPU."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int], augment_seed: int | None) -> Tensor:
        """Images `[b, C, H, W]`, float32, normalised, on the CPU.

        Args:
            augment_seed: None for images as they are. Otherwise an image's changes depend on this
                seed and its index alone: not on the batch, the process or the worker.

        Raises:
            UsageError: a file cannot be decoded.
        """


@dataclass(frozen=True)
class DataSet:
    """A training and a test split.

    `mean` and `std` are those of each channel that the images are normalised with, for pixels
    between 0 and 1.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


class Pixels(Protocol):
    """Where a split's images come from."""

    def read(self, indices: Sequence[int], augment_seed: int | None) -> Tensor:
        """Pixels `[b, C, H, W]`, uint8."""

    def take(self, indices: Tensor) -> Pixels:
        """Those images alone, in that order."""


@dataclass(frozen=True)
class InMemory:
    """Images `[N, C, H, W]`, uint8."""

    pixels: Tensor

    def read(self, indices: Sequence[int], augment_seed: int | None) -> Tensor:
        return self.pixels[torch.as_tensor(indices)]

    def take(self, indices: Tensor) -> InMemory:
        return InMemory(self.pixels[indices])


@dataclass(frozen=True)
class Split:
    """:class:`Images` of any source; `peak` is the pixel value that counts as 1."""

    pixels: Pixels
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str = "none"
    peak: float = 255.0

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Sequence[int], augment_seed: int | None) -> Tensor:
        pixels = self.pixels.read(indices, augment_seed)
        if augment_seed is not None and self.augment == "crop-flip":
            pixels = augment.crop_flip(pixels, augment_seed, indices)
        elif augment_seed is not None and self.augment == "imagenet":
            pixels = augment.flip(pixels, augment_seed, indices)
        mean, std = (
            torch.tensor(values, dtype=torch.float32).mul_(self.peak).view(-1, 1, 1)
            for values in (self.mean, self.std)
        )
        return pixels.float().sub_(mean).div_(std)

    def in_turns(self) -> Tensor:
        """The images' indices when classes take turns: any first or last part is balanced."""
        turn = torch.zeros_like(self.labels)
        for label in self.labels.unique():
            members = self.labels == label
            turn[members] = torch.arange(int(members.sum()))
        return turn.argsort(stable=True)

    def take(self, indices: Tensor) -> Split:
        """Those images alone, in that order."""
        return replace(self, pixels=self.pixels.take(indices), labels=self.labels[indices])
