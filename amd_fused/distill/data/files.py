"""Images that are files, decoded when a batch asks for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from amd_fused.distill.data.seeds import mix_seed
from amd_fused.distill.errors import UsageError
from amd_fused.distill.seeding import seeded
from amd_fused.distill.vision import load_torchvision

Transform: TypeAlias = Callable[[Image.Image], Image.Image]

# Standard for ImageNet: a test image's shorter side becomes 256, of which the middle 224 are taken.
CROP, RESIZED = 224, 256
# So that an image is not cropped and flipped by the same random number.
_CROP_SEED = 1


@dataclass(frozen=True)
class Files:
    """Image files below `root`.

    Their names lie in one array: a list of strings would be copied into every worker, page by page,
    as its reference counts change.
    """

    root: Path
    names: NDArray[np.bytes_]
    prepare: Transform
    randomly: Transform | None = None

    def read(self, indices: Sequence[int], augment_seed: int | None) -> Tensor:
        return torch.stack([self._one(index, augment_seed) for index in indices])

    def take(self, indices: Tensor) -> Files:
        return replace(self, names=self.names[indices.numpy()])

    def path(self, index: int) -> Path:
        return self.root / os.fsdecode(self.names[index])

    def _one(self, index: int, augment_seed: int | None) -> Tensor:
        image = decode(self.path(index))
        if augment_seed is None or self.randomly is None:
            image = self.prepare(image)
        else:
            # torchvision draws from torch's generator.
            with seeded(mix_seed(augment_seed, index, _CROP_SEED)):
                image = self.randomly(image)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def decode(path: Path) -> Image.Image:
    """An image file as RGB.

    Raises:
        UsageError: it cannot be decoded, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            # As RGB they would be cut off at 255, not scaled.
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"more than 8 bits a channel, mode {image.mode}")
            return image.convert("RGB")
    # What decoders raise is open-ended.
    except Exception as error:
        raise UsageError(f"{path} must be an image file, but cannot be decoded ({error})") from None


def transforms(image_size: int, resized: int, augment: str) -> tuple[Transform, Transform | None]:
    """What makes any image a square one, and what does so at random for training.

    Args:
        resized: what the shorter side becomes before the middle is taken.
    """
    load_torchvision()
    from torchvision.transforms import v2

    prepare = v2.Compose([v2.Resize(resized), v2.CenterCrop(image_size)])
    return prepare, v2.RandomResizedCrop(image_size) if augment == "imagenet" else None
