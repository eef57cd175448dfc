"""The paper's changes to training images (5.1.1), each image's from (seed, index) alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from amd_fused.distill.data.seeds import words

# 64 x 64 images become 68 x 68 before they are cropped (5.1.1).
PADDING = 2


def crop_flip(pixels: Tensor, seed: int, indices: Sequence[int]) -> Tensor:
    """Images `[b, C, H, W]` padded with black, cropped back at random, flipped with p = 1/2."""
    height, width = pixels.shape[-2:]
    places = 2 * PADDING + 1
    top, left, mirrored = words(seed, indices, 3)
    choices = zip((top % places).tolist(), (left % places).tolist(), mirrored & 1, strict=True)
    padded = torch.nn.functional.pad(pixels, (PADDING,) * 4).numpy()
    cropped = np.empty(tuple(pixels.shape), padded.dtype)
    # Copying slices is over ten times faster than one gather over all pixels of the batch.
    for image, (y, x, is_mirrored) in enumerate(choices):
        window = padded[image, :, y : y + height, x : x + width]
        cropped[image] = window[:, :, ::-1] if is_mirrored else window
    return torch.from_numpy(cropped)


def flip(pixels: Tensor, seed: int, indices: Sequence[int]) -> Tensor:
    """Images `[b, C, H, W]`, each mirrored left to right with p = 1/2."""
    mirrored = torch.from_numpy((words(seed, indices, 1)[0] & 1).astype(bool))
    return torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
