"""Subject: the ND loss, forward and backward, gradients to the student's embeddings."""

from __future__ import annotations

from functools import partial

import torch

import amd_fused
from benchmarks import common
from benchmarks.shapes import IdealBytes, Rows
from benchmarks.subject import Case, Inputs, upstream

# Batch, width of the embeddings, number of classes.
SHAPES = (
    Rows(128, 256, 100),
    Rows(256, 512, 1000),
    Rows(256, 2048, 1000),
    Rows(4096, 2048, 1000),
)
TINY = Rows(4, 5, 3)
DTYPES = ("float32",)


def case(shape: Rows, layout: str, dtype: torch.dtype, device: torch.device) -> Case:
    """The loss with float32 class means, as :func:`amd_fused.class_means` computes them."""
    ideal = ideal_bytes(shape, dtype)
    return Case(
        subject="nd",
        shape=shape.name,
        layout=layout,
        dtype=dtype,
        inputs=common.drawn(partial(_draw, shape, dtype), ideal, device),
        ideal=ideal,
        variants=common.variants(
            *(amd_fused.nd_loss, amd_fused.reference.nd_loss),
            device,
            ("triton", "cpp"),
            common.of_tensors,
        ),
        upstream=upstream(1.0, dtype),
    )


def ideal_bytes(shape: Rows, dtype: torch.dtype) -> IdealBytes:
    """Forward reads embeddings and the class means of the labels, each row once; backward again.

    It writes the student's gradient besides.
    """
    assert shape.count is not None
    size = shape.batch * shape.width * dtype.itemsize
    means = min(shape.batch, shape.count) * shape.width * torch.float32.itemsize
    return IdealBytes(forward=2 * size + means, backward=3 * size + means, gradient=size)


def _draw(shape: Rows, dtype: torch.dtype, normal: common.Normal) -> Inputs:
    # Not negative, as behind a ReLU.
    student, teacher = (normal(shape.batch, shape.width).relu() for _ in range(2))
    means = normal(shape.count, shape.width).abs()
    # As many different classes as there can be, in no order.
    labels = normal(shape.batch).argsort() % shape.count
    return common.rows(student, teacher, dtype, labels, means)
