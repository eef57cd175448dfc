"""Subject: the LSH loss, forward and backward, gradients to the student's embeddings.

Its matrix products take far longer than its bytes, so the floor is their time at a plain product's
speed.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import amd_fused
from benchmarks import common
from benchmarks.shapes import Flops, IdealBytes, Rows
from benchmarks.subject import Case, Inputs, upstream

# Batch, width of the embeddings, number of hyperplanes.
SHAPES = (Rows(128, 64, 2048), Rows(256, 512, 2048), Rows(256, 2048, 8192))
TINY = Rows(4, 5, 6)
DTYPES = ("float32",)
# In units of the hash values' spread; rounding in float32 is a tenth of it.
_CLEAR = 5e-6


def case(shape: Rows, layout: str, dtype: torch.dtype, device: torch.device) -> Case:
    """The loss with its default options: cross-entropy of the sides, and the squared difference."""
    ideal = ideal_bytes(shape, dtype)
    return Case(
        subject="lsh",
        shape=shape.name,
        layout=layout,
        dtype=dtype,
        inputs=common.drawn(partial(_draw, shape, dtype), ideal, device),
        ideal=ideal,
        variants=common.variants(
            *(amd_fused.lsh_loss, amd_fused.reference.lsh_loss),
            device,
            ("triton", "cpp"),
            common.of_tensors,
        ),
        upstream=upstream(1.0, dtype),
        flops=flops(shape),
    )


def ideal_bytes(shape: Rows, dtype: torch.dtype) -> IdealBytes:
    """Forward reads embeddings, hyperplanes and their biases; backward again, and it writes."""
    assert shape.count is not None
    size = shape.batch * shape.width * dtype.itemsize
    planes = shape.count * (shape.width + 1) * torch.float32.itemsize
    return IdealBytes(forward=2 * size + planes, backward=3 * size + planes, gradient=size)


def flops(shape: Rows) -> Flops:
    """Both sides' hash values forward; backward one product, from these to the embeddings."""
    assert shape.count is not None
    once = 2 * shape.batch * shape.width * shape.count
    return Flops(2 * once, once, product=(shape.batch, shape.width, shape.count))


def _draw(shape: Rows, dtype: torch.dtype, normal: common.Normal) -> Inputs:
    student, teacher = (normal(shape.batch, shape.width).relu().to(dtype) for _ in range(2))
    weight, bias = normal(shape.count, shape.width), normal(shape.count)
    # A hash whose side rounding decides is no error: such rows are drawn again.
    while (rows := _undecided(teacher, weight, bias)).any():
        teacher[rows] = normal(int(rows.sum()), shape.width).relu().to(dtype)
    return common.rows(student, teacher, dtype, weight, bias)


def _undecided(teacher: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    hashes = F.linear(teacher.to(weight.dtype), weight, bias)
    return (hashes.abs() < _CLEAR * hashes.std()).any(1)
