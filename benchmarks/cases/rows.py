"""Inputs of the losses on logits or embeddings, and what no implementation of a loss can avoid."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases.shapes import Rows, Shape
from benchmarks.measure.subject import Flops, IdealBytes, Inputs, input_sets

# Draws normal numbers of a shape.
Normal = Callable[..., Tensor]
# Of each sample, in CRD.
_NEGATIVES = 16384
# Their spread; logits of trained networks are about so far apart.
_LOGITS = 3.0
# In units of the hash values' spread; rounding in float32 is a tenth of it.
_CLEAR = 5e-6


def drawn(
    draw: Callable[[Normal], tuple[Tensor, ...]],
    ideal: IdealBytes,
    dtype: torch.dtype,
    device: torch.device,
) -> list[Inputs]:
    """Sets of inputs, each by ``draw(normal)``, as many as :func:`input_sets` says."""
    made = []
    for seed in range(input_sets(ideal.forward, device)):
        generator = torch.Generator(device).manual_seed(seed)
        student, teacher, *constants = draw(
            partial(torch.randn, generator=generator, device=device)
        )
        sides = [student.to(dtype).requires_grad_()], [teacher.to(dtype)]
        made.append(Inputs(*sides, tuple(constants)))
    return made


def reads_twice(
    shape: Rows, dtype: torch.dtype, constants: int = 0, teacher_again: bool = True
) -> IdealBytes:
    """Forward reads both sides, backward reads them again and writes the student's gradient.

    And so many bytes of float32 ``constants`` each time. Not ``teacher_again``: backward needs the
    student alone.
    """
    size = shape.batch * shape.width * dtype.itemsize
    return IdealBytes(2 * size + constants, (2 + teacher_again) * size + constants, size)


def nd_bytes(shape: Rows, dtype: torch.dtype) -> IdealBytes:
    """Of the class means the rows that the labels name, each once."""
    assert shape.count is not None
    return reads_twice(shape, dtype, 4 * min(shape.batch, shape.count) * shape.width)


def lsh_bytes(shape: Rows, dtype: torch.dtype) -> IdealBytes:
    """Hyperplanes and their biases."""
    assert shape.count is not None
    return reads_twice(shape, dtype, 4 * shape.count * (shape.width + 1))


def crd_bytes(shape: Rows, dtype: torch.dtype) -> IdealBytes:
    """Forward, the rows of both banks that are drawn, each once, and their numbers.

    The gradient of an embedding is a sum over the same rows: backward need not read them again.
    """
    assert shape.count is not None
    draws = shape.batch * (1 + _NEGATIVES)
    drawn_rows = round(shape.count * (1 - (1 - 1 / shape.count) ** draws))
    size = shape.batch * shape.width * dtype.itemsize
    return IdealBytes(2 * 4 * drawn_rows * shape.width + 8 * draws + 2 * size, size, size)


def lsh_flops(shape: Rows, device: torch.device) -> Flops:
    """Both sides' hash values forward; backward one product, from these to the embeddings."""
    assert shape.count is not None
    once = 2 * shape.batch * shape.width * shape.count
    return Flops(2 * once, once, product=(shape.batch, shape.width, shape.count))


def sp_flops(shape: Shape, device: torch.device) -> Flops:
    """A Gram matrix is symmetric: half of it need not be computed. Backward one product."""
    (pair,), batch = shape.pairs, shape.batch_on(device)
    of_s, of_t = (c * pair.height * pair.width for c in (pair.c_student, pair.c_teacher))
    return Flops(
        forward=batch * (batch + 1) * (of_s + of_t),
        backward=2 * batch * batch * of_s,
        product=(batch, of_t, batch),
    )


def draw_importance(normal: Normal, shape: Shape, batch: int) -> tuple[Tensor, ...]:
    """Of each layer, as a predictor's softmax has it."""
    return tuple(normal(batch, pair.c_student).softmax(1) for pair in shape.pairs)


def draw_attention(normal: Normal, shape: Shape, batch: int) -> tuple[Tensor, ...]:
    """Of each pair of a teacher's and a student's layer."""
    layers = len(shape.pairs)
    return (normal(batch, layers, layers).softmax(2),)


def draw_variances(normal: Normal, shape: Shape, batch: int) -> tuple[Tensor, ...]:
    """Of each layer, near the 5 that they begin with."""
    return tuple(5 + 0.1 * normal(pair.c_student) for pair in shape.pairs)


def draw_rows(normal: Normal, shape: Rows, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return normal(shape.batch, shape.width), normal(shape.batch, shape.width)


def draw_logits(normal: Normal, shape: Rows, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(_LOGITS * side for side in draw_rows(normal, shape, dtype))


def draw_classes(normal: Normal, shape: Rows, dtype: torch.dtype) -> tuple[Tensor, ...]:
    # Not negative, as behind a ReLU.
    student, teacher = (side.relu() for side in draw_rows(normal, shape, dtype))
    means = normal(shape.count, shape.width).abs()
    # As many different classes as there can be, in no order.
    labels = normal(shape.batch).argsort() % shape.count
    return student, teacher, labels, means


def draw_contrasted(normal: Normal, shape: Rows, dtype: torch.dtype) -> tuple[Tensor, ...]:
    assert shape.count is not None
    sides = [F.normalize(side) for side in draw_rows(normal, shape, dtype)]
    banks = [F.normalize(normal(shape.count, shape.width)) for _ in sides]
    # A normal number's fraction is as good as uniform.
    samples = (normal(shape.batch, 1 + _NEGATIVES) * shape.count).long() % shape.count
    # N times the mean of exp(score / 0.07), of directions in no relation.
    log_z = math.log(shape.count) + 0.5 / (0.07**2 * shape.width)
    return *sides, *banks, samples, normal(2) * 0 + log_z


def draw_hashed(normal: Normal, shape: Rows, dtype: torch.dtype) -> tuple[Tensor, ...]:
    student, teacher = (side.relu().to(dtype) for side in draw_rows(normal, shape, dtype))
    weight, bias = normal(shape.count, shape.width), normal(shape.count)
    # A hash whose side rounding decides is no error: such rows are drawn again.
    while (doubtful := undecided(teacher, weight, bias)).any():
        teacher[doubtful] = normal(int(doubtful.sum()), shape.width).relu().to(dtype)
    return student, teacher, weight, bias


def undecided(teacher: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Which rows have a hash that is almost zero."""
    hashes = F.linear(teacher.to(weight.dtype), weight, bias)
    return (hashes.abs() < _CLEAR * hashes.std()).any(1)
