"""Subjects: KD and spherical KD, forward and backward, gradients to the student's logits."""

from __future__ import annotations

from functools import partial

import torch

import amd_fused
from benchmarks import common
from benchmarks.shapes import IdealBytes, Rows
from benchmarks.subject import Case, Inputs, Loss, upstream

# Batches of logits: CIFAR-100, ImageNet, ImageNet-21k.
SHAPES = (Rows(128, 100), Rows(256, 1000), Rows(256, 21841))
TINY = Rows(4, 5)
DTYPES = ("float32", "bfloat16")
_BACKENDS = ("triton", "cpp")
# Their spread; logits of trained networks are about so far apart.
_SPREAD = 3.0


def case(shape: Rows, layout: str, dtype: torch.dtype, device: torch.device) -> Case:
    """KD at its default temperature."""
    losses = amd_fused.kd_loss, amd_fused.reference.kd_loss
    return _case("kd", losses, shape, layout, dtype, device)


def spherical_case(shape: Rows, layout: str, dtype: torch.dtype, device: torch.device) -> Case:
    """KD of logits brought to the teacher's standard deviation."""
    losses = amd_fused.spherical_kd_loss, amd_fused.reference.spherical_kd_loss
    return _case("skd", losses, shape, layout, dtype, device)


def ideal_bytes(shape: Rows, dtype: torch.dtype) -> IdealBytes:
    """Forward reads both logits; backward reads them again and writes the student's gradient."""
    size = shape.batch * shape.width * dtype.itemsize
    return IdealBytes(forward=2 * size, backward=3 * size, gradient=size)


def _case(
    subject: str,
    losses: tuple[Loss, Loss],
    shape: Rows,
    layout: str,
    dtype: torch.dtype,
    device: torch.device,
) -> Case:
    ideal = ideal_bytes(shape, dtype)
    return Case(
        subject=subject,
        shape=shape.name,
        layout=layout,
        dtype=dtype,
        inputs=common.drawn(partial(_draw, shape, dtype), ideal, device),
        ideal=ideal,
        variants=common.variants(*losses, device, _BACKENDS, common.of_tensors),
        upstream=upstream(1.0, dtype),
    )


def _draw(shape: Rows, dtype: torch.dtype, normal: common.Normal) -> Inputs:
    student, teacher = (_SPREAD * normal(shape.batch, shape.width) for _ in range(2))
    return common.rows(student, teacher, dtype)
