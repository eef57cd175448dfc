"""Batches on the device of a run, in its memory format."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor

from amd_fused.distill import data
from amd_fused.distill.config import Settings

# Images in a batch of a test, where no gradients are kept, at least.
_TEST_BATCH = 256


def to_device(images: Tensor, settings: Settings, accelerator: Accelerator) -> Tensor:
    """Images `[B, C, H, W]` on the device, as networks of the settings take them."""
    form = torch.channels_last if settings.channels_last else torch.contiguous_format
    return images.to(accelerator.device, non_blocking=True, memory_format=form)


def eval_batches(
    images: data.Images, settings: Settings, accelerator: Accelerator
) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of a split, each image once and as it is; labels stay on the CPU."""
    batches = data.all_batches(
        images,
        batch_size=max(settings.batch_size, _TEST_BATCH),
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
        workers=settings.workers,
    )
    return ((to_device(batch.images, settings, accelerator), batch.labels) for batch in batches)
