"""The AMD loss as a function: check, choose the backend, call the operator."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from amd_fused import _backends
from amd_fused.losses._common import constant_losses, pair_checks, pooling, value_checks
from amd_fused.losses.amd import checks, operator, reference


def amd_loss(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    *,
    margin: float = 1.35,
    scale: float = 64.0,
    local_weight: float = 0.2,
    formula: str = "paper",
    component_weights: Sequence[float] = (1.0, 1.0, 1.0),
    mask_threshold: float | None = None,
    layer_weights: Sequence[float] | None = None,
    eps: float = 1e-6,
    reduction: str = "mean",
    align: str = "error",
    backend: str = "auto",
) -> Tensor:
    """Angular Margin based Distillation loss between student and teacher feature maps.

    Computes, without storing a map of the features' size besides the gradient::

        f = a.square().sum(1); q = f / (f.norm() + eps); n = 1 - q
        g = logsigmoid(scale * (cos(margin * acos(q)) - n))
        loss = mean over {g, q, n} of mse(normalize(x_student), normalize(x_teacher))

    for the whole map and for its 2x2 quadrants, ``(1 - local_weight) * whole + local_weight *
    quadrants``, averaged over the layer pairs.

    Args:
        student: features [B, C_S, H, W] of one layer, or a sequence of such tensors, one a layer.
            float32, float16, bfloat16 or float64; any strides (NCHW and channels_last run
            natively).
        teacher: the matching features [B, C_T, H, W]; C_T and the dtype may differ.
        margin: angular margin m > 0 (Eq. 6).
        scale: radius s > 0 of the hypersphere (Eq. 6).
        local_weight: weight of the 2x2 local part, 0 to 1 (Eq. 9); 0 is the paper's "AMD (g)".
            Above 0 the maps must be at least 2x2. Quadrants are cut at H // 2 and W // 2.
        formula: "paper" compares q in the second term (Eq. 7), "released" compares cos(m theta), as
            the authors' code does.
        component_weights: weights (a, b, c) >= 0 of the terms A, P and N of Eq. 7:
            (a D_g + b D_p + c D_n) / 3.
        mask_threshold: None, or a number in [0, 1): the negative map is set to zero where it does
            not exceed it (section 5.6.1; the paper uses 0.5).
        layer_weights: one weight >= 0 a layer pair; default 1 each. The sum is divided by the
            number of pairs in any case.
        eps: added to the norm of the attention map, >= 0.
        reduction: "mean": over the batch and the region's positions (what gamma = 5000 belongs to);
            "batchmean": sum over positions, mean over the batch (Eq. 7 to the letter);
            "none": [B], mean over positions.
        align: "error" refuses different heights or widths in a pair; "adaptive_avg" average-pools
            the larger member to the smaller's size, before squaring.
        backend: "auto", "triton", "cuda", "cpp" or "reference". A named backend runs or raises. The
            environment variable AMD_FUSED_BACKEND replaces "auto".

    Returns:
        0-d float32 tensor, or [B] for reduction "none"; float64 when an input is float64. Gradients
        flow to every input that requires one. NaN and Inf in an input give NaN, and so do numbers
        whose fourth powers leave the range of the sums (4e9 in float32); where those of a whole map
        are below it (1e-11; from 1e-9 on digits are lost), it counts as all-zero.

    Raises:
        TypeError, ValueError: an argument breaks its rule; the message names argument, rule and
            value.
        RuntimeError: a named backend cannot run here, or a second derivative was asked of a fused
            one (``backend="reference"`` has them).

    Source: Jeon, Choi, Shukla, Turaga, "Leveraging Angular Distributions for Improved Knowledge
    Distillation", Neurocomputing 518, 2023: Eqs. 4, 6, 7, 9.
    """
    checks.amd_options(
        "amd_loss",
        margin=margin,
        scale=scale,
        local_weight=local_weight,
        formula=formula,
        component_weights=component_weights,
        mask_threshold=mask_threshold,
        layer_weights=layer_weights,
        eps=eps,
        reduction=reduction,
        align=align,
        backend=backend,
    )
    students, teachers = pair_checks.feature_pairs(
        "amd_loss",
        student,
        teacher,
        local_weight=local_weight,
        layer_weights=layer_weights,
        align=align,
    )
    constant_losses.warn_of_constant_maps("amd_loss", students, teachers, local_weight)
    if align == "adaptive_avg":
        students, teachers = pooling.pool_to_common_size(students, teachers)
    chosen = _backends.choose("amd_loss", backend, students[0].device.type)
    if chosen == "reference":
        value_checks.no_forward_mode("amd_loss", chosen, students + teachers)
        return reference.amd_loss(
            students,
            teachers,
            margin=margin,
            scale=scale,
            local_weight=local_weight,
            formula=formula,
            component_weights=component_weights,
            mask_threshold=mask_threshold,
            layer_weights=layer_weights,
            eps=eps,
            reduction=reduction,
        )
    features = students + teachers
    value_checks.no_transforms("amd_loss", chosen, features)
    layers = len(students)
    per_sample = operator.amd_fwd(
        chosen,
        students,
        teachers,
        margin=margin,
        scale=scale,
        local_weight=local_weight,
        released=formula == "released",
        component_weights=component_weights,
        mask_threshold=mask_threshold,
        layer_weights=[w / layers for w in (layer_weights or [1.0] * layers)],
        eps=eps,
        position_mean=reduction != "batchmean",
    )
    return per_sample if reduction == "none" else per_sample.mean()
