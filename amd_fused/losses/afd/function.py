"""Attention-based feature distillation as a function."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amd_fused import _backends
from amd_fused._backends.kernels import KERNELS
from amd_fused.losses._common import pair_checks, value_checks
from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses.afd import checks, operator, reference
from amd_fused.losses.afd.operator import Reduced


def afd_loss(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    attention: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """Attention-based feature distillation: weighted distances of all pairs of feature maps.

    As, for each teacher map t and each student map s::

        v_t = F.normalize(t.square().mean(1).flatten(1))
        v_s = F.adaptive_avg_pool2d(s.square().mean(1), t.shape[2:])
        v_s = F.normalize(v_s.flatten(1))
        loss = (attention_ts * (v_s - v_t).square().mean(1)).mean()

    added up, in one read of the features forward and one backward. :class:`AFDLoss` computes the
    attention by trained layers.

    Args:
        student: S feature maps [B, C, H, W] of any sizes, or one. float32, float16, bfloat16 or
            float64, any strides (NCHW and channels_last run natively).
        teacher: T feature maps of the same samples, of any number and sizes, or one.
        attention: [B, T, S], the weight of each pair for each sample; over the student's maps they
            add up to 1 as a rule. Any floating dtype (it does not decide the result's).
        backend: "auto", "triton", "cuda", "cpp" or "reference". A named backend runs or raises. The
            environment variable AMD_FUSED_BACKEND replaces "auto".

    Returns:
        0-d float32 tensor, float64 when a feature is float64: the mean over batch and positions,
        and the sum over teacher maps. Gradients flow to every input that requires one; an all-zero
        map, which has no direction, gets none. NaN and Inf in an input give NaN, and so do maps
        whose norm leaves the range of the sums.

    Raises:
        TypeError, ValueError: an argument breaks its rule; the message names argument, rule and
            value.
        RuntimeError: a named backend cannot run here, or a second derivative was asked of a fused
            one (``backend="reference"`` has them).

    Source: Ji, Heo, Park, "Show, Attend and Distill: Knowledge Distillation via Attention-based
    Feature Matching", AAAI 2021, section 3, and its released code, which computes the student's
    maps anew for each size [C, H, W], not [H, W].
    """
    owner = "afd_loss"
    checks.backend(owner, backend)
    students, teachers = pair_checks.feature_lists(owner, student, teacher)
    checks.attention(owner, attention, students, teachers)
    of_students, of_teachers = reduced(owner, backend, students, teachers, with_means=False)
    return reference.compare(of_students.maps, of_teachers.maps, attention)


def reduced(
    owner: str, backend: str, students: list[Tensor], teachers: list[Tensor], *, with_means: bool
) -> list[Reduced]:
    """What the loss takes of either side's features, in one read of them where a backend is fused.

    Args:
        with_means: whether the means are wanted, which the reference reads the features for again.
    """
    chosen = _backends.choose(owner, backend, students[0].device.type, KERNELS["afd"])
    dtype = compute_dtype(students + teachers)
    if chosen == "reference":
        return [
            Reduced(reference.maps(side, dtype), reference.means(side, dtype) if with_means else [])
            for side in (students, teachers)
        ]
    value_checks.no_transforms(owner, chosen, students + teachers)
    in_double = dtype == torch.float64
    return [operator.afd_fwd(chosen, side, in_double) for side in (students, teachers)]
