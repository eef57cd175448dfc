"""Attention-based feature distillation as a function."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from amd_fused.losses._common import pair_checks
from amd_fused.losses.afd import checks, reference


def afd_loss(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    attention: Tensor,
) -> Tensor:
    """Attention-based feature distillation: weighted distances of all pairs of feature maps.

    As, for each teacher map t and each student map s::

        v_t = F.normalize(t.square().mean(1).flatten(1))
        v_s = F.adaptive_avg_pool2d(s.square().mean(1), t.shape[2:])
        v_s = F.normalize(v_s.flatten(1))
        loss = (attention_ts * (v_s - v_t).square().mean(1)).mean()

    added up. :class:`AFDLoss` computes the attention by trained layers.

    Args:
        student: S feature maps [B, C, H, W] of any sizes, or one. float32, float16, bfloat16 or
            float64, any strides.
        teacher: T feature maps of the same samples, of any number and sizes, or one.
        attention: [B, T, S], the weight of each pair for each sample; over the student's maps they
            add up to 1 as a rule. Any floating dtype (it does not decide the result's).

    Returns:
        0-d float32 tensor, float64 when a feature is float64: the mean over batch and positions,
        and the sum over teacher maps. Gradients of any order flow to every input that requires
        one; an all-zero map, which has no direction, gets none. NaN and Inf in an input give NaN,
        and so do maps whose norm leaves the range of the sums.

    Raises:
        TypeError, ValueError: an argument breaks its rule; the message names argument, rule and
            value.

    Source: Ji, Heo, Park, "Show, Attend and Distill: Knowledge Distillation via Attention-based
    Feature Matching", AAAI 2021, section 3, and its released code, which computes the student's
    maps anew for each size [C, H, W], not [H, W].
    """
    owner = "afd_loss"
    students, teachers = pair_checks.feature_lists(owner, student, teacher)
    checks.attention(owner, attention, students, teachers)
    return reference.afd_loss(students, teachers, attention)
