"""Relational knowledge distillation as a function."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amd_fused.losses._common import constant_losses, dtypes, pair_checks, value_checks
from amd_fused.losses.rkd import checks, operator


def rkd_loss(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
    *,
    layer_weights: Sequence[float] | None = None,
) -> Tensor:
    """Relational knowledge distillation: distances and angles between the samples of a batch.

    Computes, without storing the [B, B, D] differences or the [B, B, B] angles::

        e = x[None] - x[:, None]
        d = e.norm(dim=2); d = d / d[d > 0].mean()
        cos = F.normalize(e, dim=2) @ F.normalize(e, dim=2).mT
        loss = (distance_weight * F.smooth_l1_loss(d_student, d_teacher)
                + angle_weight * F.smooth_l1_loss(cos_student, cos_teacher))

    Memory beside the inputs, forward and backward, in float64: the embeddings, at most 16 matrices
    [B, B], and 6 MiB for triplets (some 400 MiB on a GPU). On a CPU that is 105 MiB at B = 1024,
    D = 512, measured; the angles alone would take 4 GiB in float32.

    Args:
        student: embeddings [B, D_S], or anything [B, ...] that flattens to them, or a sequence of
            such tensors, one a layer, whose losses are added up. float32, float16, bfloat16 or
            float64, any strides. B >= 2.
        teacher: the matching embeddings; only B must be the same.
        distance_weight: weight >= 0 of the distance term.
        angle_weight: weight >= 0 of the angle term, whose time grows with B^3. A term of weight 0
            is not computed.
        layer_weights: one weight >= 0 a pair; default 1 each.

    Returns:
        0-d float32 tensor, float64 when an input is float64; computed in float64 either way.
        Gradients flow to every input that requires one. Samples in the same place have distance 0,
        no direction and no gradient between them. NaN and Inf in an input give NaN.

    Raises:
        TypeError, ValueError: an argument breaks its rule, B = 1 for one; the message names
            argument, rule and value.
        RuntimeError: a second derivative was asked for (``amd_fused.reference.rkd_loss`` has them).

    Source: Park, Kim, Lu, Cho, "Relational Knowledge Distillation", CVPR 2019, section 3.2.
    RepDistiller's ``RKDLoss`` is the same function, but gives two samples in the same place a
    distance of 1e-6 that counts in the mean, loses digits of distances by taking them from a GEMM,
    and is NaN for B = 1.
    """
    checks.rkd_options(
        "rkd_loss",
        distance_weight=distance_weight,
        angle_weight=angle_weight,
        layer_weights=layer_weights,
    )
    students, teachers = pair_checks.sample_pairs(
        "rkd_loss", student, teacher, layer_weights=layer_weights, min_batch=2
    )
    constant_losses.warn_of_constant_relations("rkd_loss", students, 2)
    value_checks.no_transforms("rkd_loss", None, students + teachers)
    dtype = dtypes.compute_dtype(students + teachers)
    weights = layer_weights or [1.0] * len(students)
    total = torch.zeros((), dtype=dtype, device=students[0].device)
    for weight, a_s, a_t in zip(weights, students, teachers, strict=True):
        loss = operator.rkd_fwd(a_s, a_t, distance_weight, angle_weight)
        total = total + weight * loss
    return total
