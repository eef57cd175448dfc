"""Attentive feature distillation as a function."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amd_fused import _backends
from amd_fused._backends.kernels import KERNELS
from amd_fused.losses._common import layer_checks, pair_checks, value_checks
from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.saving import kept_by_autograd
from amd_fused.losses._common.sides import as_list
from amd_fused.losses.afds import checks, operator, reference


def afds_loss(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    importance: Tensor | Sequence[Tensor],
    *,
    eps: float = 1e-6,
    layer_weights: Sequence[float] | None = None,
    backend: str = "auto",
) -> Tensor:
    """Attentive feature distillation: distances of normalised channels, by their importance.

    As::

        x = a.flatten(2)
        x = x / (x.norm(dim=2, keepdim=True) + eps)
        loss = (importance * (x_student - x_teacher).square().mean(2)).sum(1).mean()

    for each layer pair, and the mean over the layers, in one read of the features forward and one
    backward. :class:`AFDSLoss` predicts the importance from the teacher's features.

    Args:
        student: features [B, C, H, W] of one layer, or a sequence of such tensors, one a layer.
            float32, float16, bfloat16 or float64, any strides (NCHW and channels_last run
            natively).
        teacher: the matching features, of the same shapes; dtype and strides may differ.
        importance: [B, C], the weight of each channel for each sample; over the channels they add
            up to 1 as a rule. A sequence of them where student is one. Any floating dtype (it does
            not decide the result's).
        eps: added to the norms, > 0.
        layer_weights: one weight >= 0 a layer pair; default 1 each.
        backend: "auto", "triton", "cuda", "cpp" or "reference". A named backend runs or raises. The
            environment variable AMD_FUSED_BACKEND replaces "auto".

    Returns:
        0-d float32 tensor, float64 when a feature is float64. Gradients flow to every input that
        requires one; an all-zero channel, which has no direction, gets none. NaN and Inf in an
        input give NaN, and so do channels whose norm leaves the range of the sums.

    Raises:
        TypeError, ValueError: an argument breaks its rule; the message names argument, rule and
            value.
        RuntimeError: a named backend cannot run here, or a second derivative was asked of a fused
            one (``backend="reference"`` has them).

    Source: Wang, Gao, Chen et al., "Pay Attention to Features, Transfer Learn Faster CNNs" (AFDS),
    ICLR 2020, the attentive feature distillation of section 3. Its authors released no code; the
    mean over positions and layers and eps are those of AberHu/Knowledge-Distillation-Zoo, where
    the weight is 500.
    """
    owner = "afds_loss"
    checks.afds_options(owner, eps=eps, layer_weights=layer_weights, backend=backend)
    students, teachers = pair_checks.equal_pairs(
        owner, student, teacher, layer_weights=layer_weights, remedy=checks.REMEDY
    )
    layer_checks.beside_layers(owner, "importance", importance, "BC", student, teachers)
    chosen = _backends.choose(owner, backend, students[0].device.type, KERNELS["afds"])
    if chosen == "reference":
        return reference.afds_loss(
            student, teacher, importance, eps=eps, layer_weights=layer_weights
        )
    rhos = as_list(importance)
    value_checks.no_transforms(owner, chosen, [*students, *teachers, *rhos])
    dtype = compute_dtype(students + teachers)
    weights = [1.0] * len(students) if layer_weights is None else layer_weights
    total = torch.zeros((), dtype=dtype, device=students[0].device)
    for weight, a_s, a_t, rho in zip(weights, students, teachers, rhos, strict=True):
        distance = operator.afds_fwd(chosen, a_s, a_t, float(eps)).to(dtype)
        total = total + weight * (kept_by_autograd(rho.to(dtype)) * distance).sum(1).mean()
    return total / len(students)
