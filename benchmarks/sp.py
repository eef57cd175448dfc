"""Subject: similarity preserving, forward and backward, gradients to the student.

Ours is torch's own matrix products, without copies of the features; the peer is the released code's
lines. With a large batch the products count, not the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import amd_fused
from benchmarks import amd, common
from benchmarks.shapes import Flops, Pair, Shape
from benchmarks.subject import Case

# Of each network the last map, which is what the released code compares.
SHAPES = (
    Shape("cifar-wrn-last", 128, (Pair(64, 192, 8, 8),), "WRN16-3 to WRN16-1"),
    Shape("imagenet-resnet-last", 32, (Pair(512, 512, 7, 7),), "ResNet34 to ResNet18"),
)
TINY = Shape("tiny", 3, (Pair(2, 4, 3, 3),), "for the tests")
DTYPES = ("float32", "float16")
# Its weight in the objective, and a scale with which the peer's float16 loss can still carry it.
_BETA, _GRAD_SCALE = 3000.0, 16.0


def case(shape: Shape, layout: str, dtype: torch.dtype, device: torch.device) -> Case:
    """The loss of one layer pair, with its default options."""
    ideal = shape.ideal_bytes(dtype, device)
    return Case(
        subject="sp",
        shape=shape.name,
        layout=layout,
        dtype=dtype,
        inputs=amd.feature_sets(shape, layout, dtype, device),
        ideal=ideal,
        variants=common.beside_released(
            amd_fused.sp_loss, released_style, amd_fused.reference.sp_loss
        ),
        upstream=_BETA * (_GRAD_SCALE if dtype == torch.float16 else 1.0),
        flops=flops(shape, device),
    )


def flops(shape: Shape, device: torch.device) -> Flops:
    """A Gram matrix is symmetric: half of it need not be computed. Backward one product."""
    (pair,), batch = shape.pairs, shape.batch_on(device)
    of_s, of_t = (c * pair.height * pair.width for c in (pair.c_student, pair.c_teacher))
    return Flops(
        forward=batch * (batch + 1) * (of_s + of_t),
        backward=2 * batch * batch * of_s,
        product=(batch, of_t, batch),
    )


def released_style(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The released code's lines, but for the shape of its result."""

    def similarity(f: Tensor) -> Tensor:
        x = f.reshape(f.shape[0], -1)
        return F.normalize(torch.mm(x, x.t()))

    (s,), (t,) = student, teacher
    return (similarity(t) - similarity(s)).square().sum() / s.shape[0] ** 2
