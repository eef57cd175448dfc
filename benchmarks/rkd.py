"""Subject: relational distillation, forward and backward, gradients to the student's embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import amd_fused
from benchmarks import common
from benchmarks.shapes import IdealBytes, Rows
from benchmarks.subject import Case, Inputs, upstream

SHAPES = (Rows(64, 64), Rows(128, 512), Rows(256, 512))
TINY = Rows(5, 4)
DTYPES = ("float32",)


def case(shape: Rows, layout: str, dtype: torch.dtype, device: torch.device) -> Case:
    """The loss with its default weights of distances and angles."""
    ideal = ideal_bytes(shape, dtype)
    return Case(
        subject="rkd",
        shape=shape.name,
        layout=layout,
        dtype=dtype,
        inputs=common.drawn(partial(_draw, shape, dtype), ideal, device),
        ideal=ideal,
        variants=common.beside_released(
            amd_fused.rkd_loss, released_style, amd_fused.reference.rkd_loss
        ),
        upstream=upstream(1.0, dtype),
        note="All triplets of the batch are what takes time: this floor of bytes says little.",
    )


def ideal_bytes(shape: Rows, dtype: torch.dtype) -> IdealBytes:
    """Forward reads both embeddings; backward reads the student's and writes its gradient."""
    size = shape.batch * shape.width * dtype.itemsize
    return IdealBytes(forward=2 * size, backward=2 * size, gradient=size)


def released_style(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The released code's lines, of one pair."""

    def distances(e: Tensor) -> Tensor:
        square = e.pow(2).sum(dim=1)
        product = e @ e.t()
        d = (square[:, None] + square[None, :] - 2 * product).clamp(min=1e-12).sqrt().clone()
        d[range(len(e)), range(len(e))] = 0
        return d / d[d > 0].mean()

    def cosines(e: Tensor) -> Tensor:
        direction = F.normalize(e[None] - e[:, None], p=2, dim=2)
        return torch.bmm(direction, direction.transpose(1, 2))

    (s,), (t,) = student, teacher
    distance = F.smooth_l1_loss(distances(s), distances(t))
    return 25 * distance + 50 * F.smooth_l1_loss(cosines(s), cosines(t))


def _draw(shape: Rows, dtype: torch.dtype, normal: common.Normal) -> Inputs:
    student, teacher = (normal(shape.batch, shape.width) for _ in range(2))
    return common.rows(student, teacher, dtype)
