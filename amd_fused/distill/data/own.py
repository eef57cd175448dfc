"""Data sets of the user's: arrays in memory, or a torch Dataset that is read image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amd_fused.distill.config import Settings
from amd_fused.distill.data.images import DataSet, InMemory, Pixels, Split
from amd_fused.distill.data_sets import ImageData
from amd_fused.distill.errors import UsageError

# Images whose mean is taken at once: more would be a copy of all in float64.
_CHUNK = 1024


@dataclass(frozen=True)
class FromDataset:
    """Images `[C, H, W]` of a torch Dataset, those with `indices`."""

    dataset: Any
    indices: Tensor

    def read(self, indices: Sequence[int], augment_seed: int | None) -> Tensor:
        return torch.stack([self.dataset[int(self.indices[index])][0] for index in indices])

    def take(self, indices: Tensor) -> FromDataset:
        return replace(self, indices=self.indices[indices])


def load_nothing(settings: Settings) -> DataSet:
    """Raises a UsageError: what a program gave is not known to others."""
    raise UsageError(
        "--data given stands for the data that a program gave to amd_fused.distill.train, and only "
        "it has them"
    )


def as_data_set(name: str, found: Any, settings: Settings) -> DataSet:
    """What a function of the user's returned, checked.

    Raises:
        UsageError: it breaks a rule of :class:`ImageData`.
    """
    data = f"--data {name}"
    if not isinstance(found, ImageData):
        raise UsageError(
            f"{data}: what register_dataset decorates must return an ImageData, got "
            f"{type(found).__name__}"
        )
    if settings.augment == "imagenet":
        raise UsageError(f"--augment must be none or crop-flip for {name}, got 'imagenet'")
    classes = found.num_classes
    if not isinstance(classes, int) or classes < 2:
        raise UsageError(f"{data}: num_classes must be at least 2, got {classes!r}")
    names = tuple(map(str, found.class_names)) or tuple(map(str, range(classes)))
    if len(names) != classes:
        raise UsageError(f"{data}: class_names must be {classes} names, got {len(names)}")
    parts = [_part(f"{data}: {part}", getattr(found, part), classes) for part in ("train", "test")]
    shape, dtype = _shape(parts[0][0])
    test = _shape(parts[1][0])
    if test != (shape, dtype):
        raise UsageError(
            f"{data}: test must have images like those of train, {list(shape)} {dtype}, got "
            f"{list(test[0])} {test[1]}"
        )
    peak = 255.0 if dtype == torch.uint8 else 1.0
    mean, std = _statistics(data, found, parts[0][0], shape[0], peak)
    splits = [Split(pixels, labels, mean, std, settings.augment, peak) for pixels, labels in parts]
    return DataSet(name, names, splits[0], splits[1], shape[0], shape[1], mean, std)


def _part(where: str, part: Any, classes: int) -> tuple[Pixels, Tensor]:
    if isinstance(part, tuple | list) and len(part) == 2:
        images, labels = (_tensor(where, one) for one in part)
        pixels: Pixels = InMemory(images)
        if images.ndim != 4:
            raise UsageError(f"{where}: images must be [N, C, H, W], got {list(images.shape)}")
        count = len(images)
    else:
        pixels, labels = _of_dataset(where, part)
        count = len(part)
    if labels.is_floating_point() or labels.shape != (count,) or not count:
        raise UsageError(
            f"{where}: labels must be whole numbers, one for each of at least 1 image, got "
            f"{list(labels.shape)} {labels.dtype} for {count}"
        )
    labels = labels.to(torch.int64)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise UsageError(f"{where}: labels must be from 0 to {classes - 1}, got {wrong}")
    shape, dtype = _shape(pixels)
    if dtype != torch.uint8 and not dtype.is_floating_point:
        raise UsageError(f"{where}: images must be uint8 or floating, got {dtype}")
    if len(shape) != 3 or shape[1] != shape[2]:
        raise UsageError(f"{where}: images must be square, [C, H, H], got {list(shape)}")
    return pixels, labels


def _of_dataset(where: str, dataset: Any) -> tuple[Pixels, Tensor]:
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise UsageError(
            f"{where} must be a pair of images and labels, or a Dataset with a length, got "
            f"{type(dataset).__name__}"
        )
    if not len(dataset):
        raise UsageError(f"{where} must have at least 1 image, got none")
    first = dataset[0]
    if not isinstance(first, tuple | list) or len(first) != 2 or not isinstance(first[0], Tensor):
        got = [type(x).__name__ for x in first] if isinstance(first, tuple | list) else first
        raise UsageError(f"{where}[0] must be an image, a tensor, and a label, got {got!r}")
    if not torch.equal(first[0], dataset[0][0]):
        raise UsageError(
            f"{where} must give the same image for an index each time, but gives two for 0; "
            "--augment crop-flip changes training images"
        )
    targets = getattr(dataset, "targets", None)
    if targets is None:
        targets = [int(dataset[index][1]) for index in range(len(dataset))]
    return FromDataset(dataset, torch.arange(len(dataset))), _tensor(where, targets)


def _tensor(where: str, values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        return torch.from_numpy(np.ascontiguousarray(values))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where} must hold arrays of numbers ({error})") from None


def _shape(pixels: Pixels) -> tuple[tuple[int, ...], torch.dtype]:
    """Of one image."""
    first = pixels.read([0], None)[0]
    return tuple(first.shape), first.dtype


def _statistics(
    data: str, found: ImageData, train: Pixels, channels: int, peak: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, as given, or as :class:`ImageData` says."""
    if (found.mean is None) != (found.std is None):
        raise UsageError(f"{data}: mean and std must be given together, got one")
    if found.mean is not None and found.std is not None:
        mean, std = tuple(map(float, found.mean)), tuple(map(float, found.std))
    elif isinstance(train, InMemory):
        sums = torch.zeros(2, channels, dtype=torch.float64)
        for chunk in train.pixels.split(_CHUNK):
            x = chunk.double() / peak
            sums += torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3))])
        means, squares = sums / train.pixels[:, 0].numel()
        mean = tuple(means.tolist())
        std = tuple((squares - means.square()).clamp_min(0).sqrt().tolist())
    else:
        mean, std = (0.0,) * channels, (1.0,) * channels
    if not len(mean) == len(std) == channels or min(std) <= 0:
        raise UsageError(
            f"{data}: mean and std must be {channels} numbers each, a channel's, and std > 0, got "
            f"{list(mean)} and {list(std)}"
        )
    return mean, std
