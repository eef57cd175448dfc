"""The AMD loss as a function: check, choose the backend, call the operator."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from amd_fused import _backends
from amd_fused.losses._common import constant_losses, pair_checks, pooling, value_checks
from amd_fused.losses.amd import operator, reference
from amd_fused.losses.amd.options import AMDOptions, Features, check, options_of, takes


@takes(AMDOptions)
def amd_loss(student: Features, teacher: Features, **keywords: Any) -> Tensor:
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
            natively). Volumes [B, C_S, D, H, W] have the global part alone; of 3-D features
            ``layout`` says what they are.
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
        layout: what the axes of 3-D features are: "NLC", tokens [B, N, C] as vision transformers
            have them, or "NCL", [B, C, L]. It says nothing of features of more axes.
        prefix_tokens: how many tokens are left out at the front, such as a class token.
        grid: (H, W) of 3-D features, whose H * W positions it puts in rows. The local part, and
            tokens against maps, need it.
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
    owner = "amd_loss"
    options = options_of(AMDOptions, owner, keywords)
    check(owner, options)
    students, teachers = pair_checks.feature_pairs(
        owner,
        student,
        teacher,
        options,
        local_weight=options.local_weight,
        layer_weights=options.layer_weights,
        align=options.align,
    )
    constant_losses.warn_of_constant_maps(owner, students, teachers, options.local_weight)
    if options.align == "adaptive_avg":
        students, teachers = pooling.pool_to_common_size(students, teachers)
    features = students + teachers
    chosen = _backends.choose(owner, options.backend, students[0].device.type)
    if chosen == "reference":
        value_checks.no_forward_mode(owner, chosen, features)
        return reference.loss_of(students, teachers, options)
    value_checks.no_transforms(owner, chosen, features)
    per_sample = operator.amd_fwd(chosen, students, teachers, options, owner)
    return per_sample if options.reduction == "none" else per_sample.mean()
