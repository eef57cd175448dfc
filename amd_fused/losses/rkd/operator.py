"""The RKD loss from squared distances alone, with torch's operators, in bounded memory.

derived: by the law of cosines the angle at i between j and k has the cosine
``(d_ij^2 + d_ik^2 - d_jk^2) / (2 d_ij d_ik)``, so that distances [B, B] hold all there is to know,
and a cosine costs a few operations instead of D. ``amd_fused::rkd_fwd`` returns the loss and, for
each input that wants a gradient, the matrix d loss / d d_ij^2, [B, B]; ``amd_fused::rkd_bwd`` turns
that into the gradient of the embeddings with one GEMM. Both in float64, whatever the dtype, for the
squares cancel in the cosine of a sample close to i (float32 would lose its digits).

Memory: at most 16 matrices [B, B], and six buffers of `_CHUNK` numbers (one row of triplets at
least) for a block of triplets at a time. The embeddings are widened, [B, D] in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.numbers import as_tensor

# Numbers in a buffer: 1 MiB stays near a CPU's cores; a GPU wants fewer and larger launches.
_CHUNK = {"cpu": 1 << 17}
_CHUNK_ELSEWHERE = 1 << 23

_LIBRARY = torch.library.Library("amd_fused", "FRAGMENT")
_LIBRARY.define(
    "rkd_fwd(Tensor student, Tensor teacher, Tensor numbers, bool[] needs_grad)"
    " -> (Tensor, Tensor[])"  # numbers: [2] float64 on the CPU, the weights of distances and angles
)
_LIBRARY.define("rkd_bwd(Tensor grad_loss, Tensor embeddings, Tensor d_square) -> Tensor")


def rkd_fwd(
    student: Tensor, teacher: Tensor, distance_weight: float, angle_weight: float
) -> Tensor:
    """The RKD loss of one pair of embeddings [B, ...], 0-d, differentiable once.

    Returns:
        float64 if either is float64, else float32.
    """
    grad_enabled = torch.is_grad_enabled()
    needs_grad = [grad_enabled and a.requires_grad for a in (student, teacher)]
    return _RKD.apply(student, teacher, as_tensor(distance_weight, angle_weight), needs_grad)


class _RKD(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        numbers: Tensor,
        needs_grad: list[bool],
    ) -> Tensor:
        operator = torch.ops.amd_fused.rkd_fwd.default
        loss, d_squares = operator(student, teacher, numbers, needs_grad)
        both = zip((student, teacher), needs_grad, strict=True)
        ctx.save_for_backward(*(a for a, needed in both if needed), *d_squares)
        ctx.needs_grad = needs_grad
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        half = len(saved) // 2
        differentiated_again = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        function = _NoSecondOrder.apply if differentiated_again else _backward
        pairs = zip(saved[:half], saved[half:], strict=True)
        grads = iter([function(grad_loss, x, d_square) for x, d_square in pairs])
        return *(next(grads) if needed else None for needed in ctx.needs_grad), None, None


class _NoSecondOrder(torch.autograd.Function):
    """The backward operator under create_graph=True: an error, rather than zero, if it is used."""

    @staticmethod
    def forward(_ctx: Any, *tensors: Tensor) -> Tensor:
        return _backward(*tensors)

    @staticmethod
    def backward(_ctx: Any, *_grads: Tensor) -> Any:
        raise RuntimeError(
            "rkd_loss: it has no second derivatives; use amd_fused.reference.rkd_loss where a "
            "gradient is differentiated again"
        )


def _backward(grad_loss: Tensor, embeddings: Tensor, d_square: Tensor) -> Tensor:
    return torch.ops.amd_fused.rkd_bwd.default(grad_loss, embeddings, d_square)


class _Side(NamedTuple):
    """One network's batch, all [B, B]: squared distances, distances, 1 / (sqrt(2) distance)."""

    square: Tensor
    distance: Tensor
    inverse: Tensor


def _rkd_fwd(
    student: Tensor, teacher: Tensor, numbers: Tensor, needs_grad: Sequence[bool]
) -> tuple[Tensor, list[Tensor]]:
    distance_weight, angle_weight = numbers.tolist()
    sides = [_side(student), _side(teacher)]
    loss = sides[0].square.new_zeros(())
    d_squares = [torch.zeros_like(side.square) for side in sides]
    if distance_weight > 0:
        _distance_term(sides, distance_weight, loss, d_squares, needs_grad)
    if angle_weight > 0:
        _angle_term(sides, angle_weight, loss, d_squares, needs_grad)
    wanted = [d for d, needed in zip(d_squares, needs_grad, strict=True) if needed]
    return loss.to(compute_dtype([student, teacher])), wanted


def _side(embeddings: Tensor) -> _Side:
    x = _widened(embeddings)
    # By differences, not by a GEMM: exactly 0 for equal samples, and nothing cancels.
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    square = distance.square()
    return _Side(square, distance, torch.where(distance == 0, 0.0, (2 * square).rsqrt()))


def _widened(embeddings: Tensor) -> Tensor:
    """[B, D] in float64; MPS devices have none."""
    widest = torch.float32 if embeddings.device.type == "mps" else torch.float64
    return embeddings.flatten(1).to(widest)


def _distance_term(
    sides: Sequence[_Side],
    weight: float,
    loss: Tensor,
    d_squares: Sequence[Tensor],
    needs_grad: Sequence[bool],
) -> None:
    """Section 3.2.1: smooth L1 of distances in units of their mean. Adds to loss and gradients."""
    pairs = sides[0].square.numel()
    counts = [(side.distance > 0).sum().clamp(min=1) for side in sides]
    means = [side.distance.sum() / count for side, count in zip(sides, counts, strict=True)]
    means = [torch.where(mean == 0, 1.0, mean) for mean in means]  # all samples in one place
    x = sides[0].distance / means[0] - sides[1].distance / means[1]
    slope = x.clamp(-1, 1)
    # derived: smooth L1 is y (x - y / 2) with y = clamp(x, -1, 1), its slope.
    loss += weight / pairs * (slope * (x - slope / 2)).sum()
    for i, side in enumerate(sides):
        if needs_grad[i]:
            sign = weight / pairs * (1 - 2 * i)
            # The distance itself, and its share in the mean.
            share = (slope * side.distance).sum() / (means[i] * counts[i])
            d_distance = sign / means[i] * (slope - share)
            # d d_ij = d (d_ij^2) / (2 d_ij)
            d_squares[i] += torch.where(side.distance == 0, 0.0, d_distance / (2 * side.distance))


def _angle_term(
    sides: Sequence[_Side],
    weight: float,
    loss: Tensor,
    d_squares: Sequence[Tensor],
    needs_grad: Sequence[bool],
) -> None:
    """Section 3.2.2: smooth L1 of the cosines of all triplets. Adds to loss and gradients.

    derived: with y_ijk the slope, symmetric in j and k, r the inverse distances / sqrt(2) and
    m_ijk = y_ijk r_ij r_ik, d loss / d d_ij^2 is
    2 sum_k m_ijk - sum_k y_ijk cos_ijk / d_ij^2 - sum_a m_aij (a: anchors), each pair in both
    orders.
    """
    batch = len(sides[0].square)
    scale = weight / batch**3
    for anchors, rows in _blocks(batch, _CHUNK.get(loss.device.type, _CHUNK_ELSEWHERE)):
        cosines = [_cosines(side, anchors, rows) for side in sides]
        x = cosines[0] - cosines[1]
        slope = x.clamp(-1, 1)
        x.sub_(slope, alpha=0.5)
        loss += scale * torch.dot(x.view(-1), slope.view(-1))
        for i, side in enumerate(sides):
            if needs_grad[i]:
                sign = scale * (1 - 2 * i)
                turned = cosines[i].mul_(slope).sum(2)
                r = side.inverse[anchors]
                m = torch.mul(slope, r[:, rows, None], out=x).mul_(r[:, None, :])
                square = side.square[anchors, rows]
                near = torch.where(square == 0, 0.0, turned / square)
                d_squares[i][anchors, rows] += sign * (2 * m.sum(2) - near)
                d_squares[i][rows].sub_(m.sum(0), alpha=sign)


def _blocks(batch: int, budget: int) -> Iterator[tuple[slice, slice]]:
    """Anchors i and rows j such that all their triplets (i, j, k) are about ``budget`` numbers."""
    rows_at_once = min(batch, max(1, budget // batch))
    anchors_at_once = max(1, budget // (rows_at_once * batch))
    for start in range(0, batch, anchors_at_once):
        for row in range(0, batch, rows_at_once):
            yield slice(start, start + anchors_at_once), slice(row, row + rows_at_once)


def _cosines(side: _Side, anchors: slice, rows: slice) -> Tensor:
    """cos_ijk of a block, by the law of cosines. 0 where a distance from i is 0."""
    square, r = side.square[anchors], side.inverse[anchors]
    doubled = (square[:, rows, None] + square[:, None, :]).sub_(side.square[rows])
    return doubled.mul_(r[:, rows, None]).mul_(r[:, None, :])


def _rkd_bwd(grad_loss: Tensor, embeddings: Tensor, d_square: Tensor) -> Tensor:
    x = _widened(embeddings)
    x = x - x.mean(0)  # distances do not change, and less cancels
    # derived: d_ij^2 = |x_i - x_j|^2 pulls x_i along 2 (x_i - x_j).
    pull = 2 * (d_square + d_square.T)
    grad = torch.addmm(pull.sum(1, keepdim=True) * x, pull, x, alpha=-1)
    # The upstream gradient before the cast: a small one must not vanish in float16.
    return torch.empty_like(embeddings).copy_((grad * grad_loss).view(embeddings.shape))


def _rkd_fwd_fake(
    student: Tensor, teacher: Tensor, numbers: Tensor, needs_grad: Sequence[bool]
) -> tuple[Tensor, list[Tensor]]:
    batch, features = student.shape[0], [student, teacher]
    widest = torch.float32 if student.device.type == "mps" else torch.float64
    matrices = [student.new_empty(batch, batch, dtype=widest) for needed in needs_grad if needed]
    return student.new_empty((), dtype=compute_dtype(features)), matrices


def _rkd_bwd_fake(grad_loss: Tensor, embeddings: Tensor, d_square: Tensor) -> Tensor:
    return torch.empty_like(embeddings)


_LIBRARY.impl("rkd_fwd", _rkd_fwd, "CompositeExplicitAutograd")
_LIBRARY.impl("rkd_bwd", _rkd_bwd, "CompositeExplicitAutograd")
torch.library.register_fake("amd_fused::rkd_fwd", _rkd_fwd_fake, lib=_LIBRARY)
torch.library.register_fake("amd_fused::rkd_bwd", _rkd_bwd_fake, lib=_LIBRARY)
