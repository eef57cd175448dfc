"""Subject: attention transfer, forward and backward, gradients to the student."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import amd_fused
from benchmarks import amd, common
from benchmarks.shapes import SHAPES as OF_NETWORKS
from benchmarks.shapes import Shape
from benchmarks.subject import Case, Variant, upstream

SHAPES = (OF_NETWORKS["cifar-wrn"],)
TINY = OF_NETWORKS["tiny"]
DTYPES = ("float32",)
# Its weight in the objective: RepDistiller's beta.
_BETA = 1000.0


def case(shape: Shape, layout: str, dtype: torch.dtype, device: torch.device) -> Case:
    """The loss with its default options, on all maps of a step."""
    ideal = shape.ideal_bytes(dtype, device)
    right = amd_fused.reference.at_loss
    return Case(
        subject="at",
        shape=shape.name,
        layout=layout,
        dtype=dtype,
        inputs=amd.feature_sets(shape, layout, dtype, device),
        ideal=ideal,
        variants=[
            *common.variants(amd_fused.at_loss, right, device, ("triton", "cuda", "cpp")),
            Variant("released", "released style", released_style, right),
        ],
        upstream=upstream(_BETA, dtype),
    )


def released_style(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The sum over layers, as the released code's callers take it."""
    return len(student) * amd.plain_at(student, teacher)
