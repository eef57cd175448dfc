"""Whether and where a run keeps its teacher's outputs, so that the teacher runs in one epoch only.

`auto` keeps them in memory, where the images are the same in every epoch. On the CPU that changes
no bit of the result: the teacher runs on batches of one size, and PyTorch's kernels there give a
sample the same numbers in whatever batch of that size it stands. Elsewhere they may differ in their
last bits, as two runs on a GPU may.
"""

from __future__ import annotations

import sys
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from amd_fused import TeacherCache
from amd_fused.distill import data, models
from amd_fused.distill.config import Settings
from amd_fused.distill.engine import launch
from amd_fused.distill.engine.objective import FrozenTeacher, Output, to_keep
from amd_fused.distill.errors import UsageError

# What `auto` takes of the memory without being told: more than CIFAR's 50,000 images need by all
# methods but SP and those that take whole maps of every layer.
AUTO_BYTES = 2 << 30


def attach(
    teacher: FrozenTeacher,
    example: Output,
    settings: Settings,
    dataset: data.DataSet,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Gives the teacher its cache, with room for all training images.

    Args:
        example: the teacher's output for any images, for the shapes.

    Returns:
        What config.json says of it: "kept", which is "memory", a folder or None, and "reason", for
        which it is None.

    Raises:
        UsageError: there are several processes and not a folder; the folder is another teacher's or
            other images', or has too little room.
    """
    reason = _reason_against(settings, accelerator.num_processes)
    if reason:
        return {"kept": None, "reason": reason}
    where = settings.teacher_cache
    folder = settings.teacher_cache_folder
    try:
        looked_at, embedding = teacher.network, teacher.embedding_layer
        if models.intermediates.indices_of(teacher.attention or teacher.maps):
            looked_at = _WithIntermediates(teacher.network)
            embedding = embedding and f"network.{embedding}"
        cache = TeacherCache(
            folder,
            teacher=looked_at,
            dataset=_Images(dataset.train),
            maps=teacher.attention,
            features=teacher.maps,
            embedding=embedding,
            extra={"data": dataset.name, "autocast": settings.mixed_precision},
        )
        outputs = to_keep(example)
        needed = cache.bytes_needed(outputs)
        if where == "auto" and needed > AUTO_BYTES:
            return {"kept": None, "reason": _too_large(needed, accelerator)}
        launch.on_main_process(accelerator, lambda: cache.allocate(outputs))
        # What the main process made, or on another machine its own.
        cache.allocate(outputs)
    except (ValueError, OSError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"--teacher-cache {where}: {text}") from None
    teacher.cache = cache
    return {"kept": folder or "memory", "reason": None}


def _reason_against(settings: Settings, processes: int) -> str:
    """Empty where outputs can be kept as the settings say."""
    if settings.teacher_cache == "off":
        return "--teacher-cache off"
    if settings.changing_images:
        return f"{settings.changing_images}: images differ from epoch to epoch"
    if processes > 1 and settings.teacher_cache_folder is None:
        if settings.teacher_cache == "memory":
            raise UsageError(
                f"--teacher-cache must be auto, off or a folder for {processes} processes, which "
                "share files but no memory, got 'memory'"
            )
        return f"{processes} processes, which could share a folder"
    return ""


def _too_large(needed: int, accelerator: Accelerator) -> str:
    reason = f"{needed / 1e9:.1f} GB, above the {AUTO_BYTES / 1e9:.1f} GB that auto takes"
    if accelerator.is_main_process:
        print(
            f"the teacher's outputs are not kept ({reason}); --teacher-cache memory or a folder "
            "keeps them all the same",
            file=sys.stderr,
        )
    return reason


class _WithIntermediates(nn.Module):
    """A teacher with a module by the name of maps that none returns. The cache looks at a teacher
    and its layers, and is given what it keeps."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.forward_intermediates = nn.Identity()


class _Images:
    """A split's images as they are, one by one."""

    def __init__(self, images: data.Images) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        return self._images.batch([index], None)[0]
