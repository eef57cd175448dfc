"""The shapes that are measured, and the bytes that an ideal implementation would move."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.measure.subject import IdealBytes


@dataclass(frozen=True)
class Pair:
    """A student layer [B, c_student, height, width] and its teacher layer [B, c_teacher, ...]."""

    c_student: int
    c_teacher: int
    height: int
    width: int


@dataclass(frozen=True)
class Rows:
    """Logits or embeddings [batch, width] of both networks.

    Args:
        count: of what the loss has besides, such as classes or hyperplanes.
    """

    batch: int
    width: int
    count: int | None = None

    @property
    def name(self) -> str:
        sizes = (self.batch, self.width, self.count)
        return "x".join(str(size) for size in sizes if size is not None)


@dataclass(frozen=True)
class Shape:
    """A whole call: the layer pairs of one training step.

    Args:
        name: as given to ``--shapes``.
        batch: B on a CPU.
        pairs: the layer pairs.
        note: which networks this is.
        cuda_batch: B on a GPU, where that differs.
    """

    name: str
    batch: int
    pairs: tuple[Pair, ...]
    note: str
    cuda_batch: int | None = None

    def batch_on(self, device: torch.device) -> int:
        return self.cuda_batch if device.type == "cuda" and self.cuda_batch else self.batch

    def elements(self, device: torch.device) -> tuple[int, int]:
        """Numbers of elements of all student and of all teacher features."""
        batch = self.batch_on(device)
        student = sum(batch * p.c_student * p.height * p.width for p in self.pairs)
        teacher = sum(batch * p.c_teacher * p.height * p.width for p in self.pairs)
        return student, teacher

    def ideal_bytes(
        self, dtype: torch.dtype, device: torch.device, teacher_again: bool = False
    ) -> IdealBytes:
        """Forward reads both features once; backward reads the student's, writes its gradient.

        ``teacher_again``: backward needs the teacher's features too.
        """
        student, teacher = self.elements(device)
        size = dtype.itemsize
        return IdealBytes(
            forward=(student + teacher) * size,
            backward=(2 * student + teacher * teacher_again) * size,
            gradient=student * size,
        )


_WRN = (Pair(16, 48, 32, 32), Pair(32, 96, 16, 16), Pair(64, 192, 8, 8))
_RESNET = tuple(Pair(c, c, side, side) for c, side in ((64, 56), (128, 28), (256, 14), (512, 7)))
_PYRAMID = (Pair(256, 256, 200, 336), Pair(256, 256, 100, 168), Pair(256, 256, 50, 84))
_TINY = (Pair(3, 5, 7, 7), Pair(4, 6, 4, 5))
_ALL = (
    Shape("cifar-wrn", 128, _WRN, "WRN16-3 to WRN16-1 on 32x32 images"),
    Shape("imagenet-resnet", 32, _RESNET, "ResNet34 to ResNet18 on 224x224 images", cuda_batch=256),
    Shape("detection", 4, _PYRAMID, "feature pyramid of a detector on 800x1333 images"),
    Shape("tiny", 2, _TINY, "for the tests; says nothing on speed"),
)
SHAPES = {shape.name: shape for shape in _ALL}
